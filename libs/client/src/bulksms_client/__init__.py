"""The typed client other backends install, and the bulksms command."""

from bulksms_client.aio.client import AsyncClient
from bulksms_client.errors import (
    BulkSmsError,
    Cancelled,
    ConfigurationError,
    Conflict,
    DeadlineExceeded,
    FieldViolation,
    InsufficientCredits,
    Internal,
    InvalidArgument,
    NotFound,
    Overloaded,
    PermissionDenied,
    SubscriptionInactive,
    Unavailable,
    Unimplemented,
    WrongState,
)
from bulksms_client.options import TlsOptions
from bulksms_client.sync.client import Client

__all__ = [
    "AsyncClient",
    "BulkSmsError",
    "Cancelled",
    "Client",
    "ConfigurationError",
    "Conflict",
    "DeadlineExceeded",
    "FieldViolation",
    "InsufficientCredits",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "SubscriptionInactive",
    "TlsOptions",
    "Unavailable",
    "Unimplemented",
    "WrongState",
]
