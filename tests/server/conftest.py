"""How tests of the server are run."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How long generated inputs take is the machine's and its other work's affair, not a fault.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
