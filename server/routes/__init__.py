"""The HTTP skins over the handlers: bytes to requests, replies to bytes, errors to statuses.

Nothing here decides anything about models; everything here is bounded, because what arrives was
written by strangers.
"""
