"""The model repository: what is in the folder, what is loaded, and the switch between versions.

May import the engine (in `loader` only) and the layers below: errors, settings, metrics. Knows no
HTTP, no task and no batcher; those take part in a switch as attachments.
"""

from server.repository.deployment import Attachment, Deployment, Lease
from server.repository.incoming import Published
from server.repository.publish import publish_path
from server.repository.registry import Repository
from server.repository.status import IndexEntry, ModelStatus, State, VersionStatus

__all__ = [
    "Attachment",
    "Deployment",
    "IndexEntry",
    "Lease",
    "ModelStatus",
    "Published",
    "Repository",
    "State",
    "VersionStatus",
    "publish_path",
]
