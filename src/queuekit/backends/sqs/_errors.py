# SPDX-License-Identifier: Apache-2.0
"""What botocore's exceptions and the service's codes mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from queuekit.backend import ErrorClass, ErrorCode

_PURGE_S = 60.0

_UNREACHED = ErrorClass(
    ErrorCode.UNAVAILABLE,
    retryable=True,
    scope="connection",
    sent="no",
    detail="no connection to the service could be made",
)
_CUT = ErrorClass(
    ErrorCode.UNAVAILABLE, retryable=True, scope="connection", detail="the connection to the service was lost"
)
_SILENT = ErrorClass(
    ErrorCode.UNAVAILABLE, retryable=True, scope="connection", detail="the service did not answer in time"
)
_DAMAGED = ErrorClass(ErrorCode.UNAVAILABLE, retryable=True, scope="connection", detail="an answer arrived damaged")
_NO_CREDENTIALS = ErrorClass(
    ErrorCode.ACCESS_DENIED,
    scope="connection",
    sent="no",
    detail="boto3 found no usable credentials; see the cause, and boto3's guide to credentials",
)
_CREDENTIALS_LATE = ErrorClass(
    ErrorCode.UNAVAILABLE,
    retryable=True,
    scope="connection",
    sent="no",
    detail="boto3's source of credentials did not answer",
)
_CONFIGURATION = ErrorClass(
    ErrorCode.REFUSED, scope="connection", sent="no", detail="boto3's own configuration is wrong; see the cause"
)
_BUG = ErrorClass(ErrorCode.BACKEND_BUG, sent="no", detail="the backend used boto3 wrongly; report it")

EXCEPTIONS: Mapping[str, ErrorClass] = {
    "AliasConflictParameterError": _BUG,
    "ApiVersionNotFoundError": _CONFIGURATION,
    "AwsChunkedWrapperError": _CUT,
    "BaseEndpointResolverError": _CONFIGURATION,
    "BotoCoreError": _CONFIGURATION,
    "CapacityNotAvailableError": _UNREACHED,
    "ChecksumError": _DAMAGED,
    "ConfigNotFound": _CONFIGURATION,
    "ConfigParseError": _CONFIGURATION,
    "ConnectTimeoutError": _UNREACHED,
    "ConnectionClosedError": _CUT,
    "ConnectionError": _CUT,
    "CredentialRetrievalError": _CREDENTIALS_LATE,
    "DataNotFoundError": _CONFIGURATION,
    "EndpointConnectionError": _UNREACHED,
    "EndpointProviderError": _CONFIGURATION,
    "EndpointResolutionError": _CONFIGURATION,
    "EndpointVariantError": _CONFIGURATION,
    "EventStreamError": _DAMAGED,
    "FlexibleChecksumError": _DAMAGED,
    "HTTPClientError": _CUT,
    "IncompleteReadError": _CUT,
    "InfiniteLoopConfigError": _CONFIGURATION,
    "InvalidChecksumConfigError": _CONFIGURATION,
    "InvalidConfigError": _CONFIGURATION,
    "InvalidDNSNameError": _CONFIGURATION,
    "InvalidDefaultsMode": _CONFIGURATION,
    "InvalidEndpointConfigurationError": _CONFIGURATION,
    "InvalidEndpointDiscoveryConfigurationError": _CONFIGURATION,
    "InvalidExpressionError": _BUG,
    "InvalidHostLabelError": _CONFIGURATION,
    "InvalidIMDSEndpointError": _CONFIGURATION,
    "InvalidIMDSEndpointModeError": _CONFIGURATION,
    "InvalidMaxRetryAttemptsError": _CONFIGURATION,
    "InvalidProxiesConfigError": _CONFIGURATION,
    "InvalidRegionError": _CONFIGURATION,
    "InvalidRetryConfigurationError": _CONFIGURATION,
    "InvalidRetryModeError": _CONFIGURATION,
    "InvalidS3AddressingStyleError": _CONFIGURATION,
    "InvalidS3UsEast1RegionalEndpointConfigError": _CONFIGURATION,
    "InvalidSTSRegionalEndpointsConfigError": _CONFIGURATION,
    "LoginAuthorizationCodeError": _NO_CREDENTIALS,
    "LoginError": _NO_CREDENTIALS,
    "LoginInsufficientPermissions": _NO_CREDENTIALS,
    "LoginRefreshRequired": _NO_CREDENTIALS,
    "LoginTokenLoadError": _NO_CREDENTIALS,
    "MD5UnavailableError": _CONFIGURATION,
    "MetadataRetrievalError": _CREDENTIALS_LATE,
    "MissingDependencyException": _CONFIGURATION,
    "MissingParametersError": _BUG,
    "MissingServiceIdError": _CONFIGURATION,
    "NoAuthTokenError": _NO_CREDENTIALS,
    "NoCredentialsError": _NO_CREDENTIALS,
    "NoRegionError": _CONFIGURATION,
    "OperationNotPageableError": _BUG,
    "PaginationError": _BUG,
    "ParamValidationError": _BUG,
    "PartialCredentialsError": _NO_CREDENTIALS,
    "ProfileNotFound": _NO_CREDENTIALS,
    "ProxyConnectionError": _UNREACHED,
    "RangeError": _BUG,
    "ReadTimeoutError": _SILENT,
    "RefreshWithMFAUnsupportedError": _NO_CREDENTIALS,
    "ResponseStreamingError": _CUT,
    "SSLError": _CUT,
    "SSOError": _NO_CREDENTIALS,
    "SSOTokenLoadError": _NO_CREDENTIALS,
    "ServiceNotInRegionError": _CONFIGURATION,
    "StubAssertionError": _BUG,
    "StubResponseError": _BUG,
    "TokenRetrievalError": _CREDENTIALS_LATE,
    "UnStubbedResponseError": _BUG,
    "UnauthorizedSSOTokenError": _NO_CREDENTIALS,
    "UndefinedModelAttributeError": _BUG,
    "UnknownClientMethodError": _BUG,
    "UnknownCredentialError": _NO_CREDENTIALS,
    "UnknownEndpointError": _CONFIGURATION,
    "UnknownEndpointResolutionBuiltInName": _CONFIGURATION,
    "UnknownFIPSEndpointError": _CONFIGURATION,
    "UnknownKeyError": _BUG,
    "UnknownParameterError": _BUG,
    "UnknownRegionError": _CONFIGURATION,
    "UnknownServiceError": _CONFIGURATION,
    "UnknownServiceStyle": _CONFIGURATION,
    "UnknownSignatureVersionError": _CONFIGURATION,
    "UnknownTokenProviderError": _NO_CREDENTIALS,
    "UnseekableStreamError": _BUG,
    "UnsupportedOutpostResourceError": _BUG,
    "UnsupportedS3AccesspointConfigurationError": _BUG,
    "UnsupportedS3ArnError": _BUG,
    "UnsupportedS3ConfigurationError": _BUG,
    "UnsupportedS3ControlArnError": _BUG,
    "UnsupportedS3ControlConfigurationError": _BUG,
    "UnsupportedServiceProtocolsError": _CONFIGURATION,
    "UnsupportedSignatureVersionError": _CONFIGURATION,
    "ValidationError": _BUG,
    "WaiterConfigError": _BUG,
    "WaiterError": _BUG,
}
"""By the name of the class in `botocore.exceptions`: which there are depends on its version."""


def _denied(detail: str) -> ErrorClass:
    return ErrorClass(ErrorCode.ACCESS_DENIED, scope="queue", sent="no", detail=detail)


def _refused(detail: str) -> ErrorClass:
    return ErrorClass(ErrorCode.REFUSED, scope="queue", sent="no", detail=detail)


NO_PERMISSION = _denied("the credentials do not allow this call on the queue")
_NO_LOGIN = ErrorClass(
    ErrorCode.ACCESS_DENIED, scope="connection", sent="no", detail="the service did not accept the credentials"
)
_KEY = _denied("the queue's encryption key cannot be used; see the cause")
_BUSY = ErrorClass(
    ErrorCode.THROTTLED, retryable=True, scope="queue", sent="no", detail="the service asks for fewer calls"
)
_MISSING = ErrorClass(
    ErrorCode.NOT_FOUND,
    scope="queue",
    sent="no",
    detail="the queue does not exist, or not in this region and account",
)
_OURS = ErrorClass(ErrorCode.BACKEND_BUG, sent="no", detail="the backend made a call that the service cannot take")
_GONE = ErrorClass(ErrorCode.LEASE_LOST, sent="no", detail="the lease is over")
_DOWN = ErrorClass(
    ErrorCode.UNAVAILABLE, retryable=True, scope="connection", detail="the service failed; see the cause"
)

CODES: Mapping[str, ErrorClass] = {
    "AccessDenied": NO_PERMISSION,
    "AccessDeniedException": NO_PERMISSION,
    "AuthFailure": _NO_LOGIN,
    "BatchEntryIdsNotDistinct": _OURS,
    "BatchRequestTooLong": _OURS,
    "EmptyBatchRequest": _OURS,
    "ExpiredToken": _NO_LOGIN,
    "ExpiredTokenException": _NO_LOGIN,
    "IncompleteSignature": _NO_LOGIN,
    "InternalError": _DOWN,
    "InternalFailure": _DOWN,
    "InvalidAccessKeyId": _NO_LOGIN,
    "InvalidAddress": _refused("the service does not know this address"),
    "InvalidAttributeName": _refused("the service does not know an attribute of the queue"),
    "InvalidAttributeValue": _refused("the service does not take a setting of the queue; see the cause"),
    "InvalidBatchEntryId": _OURS,
    "InvalidClientTokenId": _NO_LOGIN,
    "InvalidIdFormat": _GONE,
    "InvalidMessageContents": ErrorClass(
        ErrorCode.INVALID_MESSAGE, sent="no", detail="the service does not take a character of the message"
    ),
    "InvalidParameterValue": ErrorClass(ErrorCode.REFUSED, sent="no", detail="the service refused a value"),
    "InvalidSecurity": _refused("the service wants calls over https, signed"),
    "KMS.AccessDeniedException": _KEY,
    "KMS.DisabledException": _KEY,
    "KMS.InvalidKeyUsageException": _KEY,
    "KMS.InvalidStateException": _KEY,
    "KMS.NotFoundException": _KEY,
    "KMS.OptInRequired": _KEY,
    "KMS.ThrottlingException": _BUSY,
    "KmsAccessDenied": _KEY,
    "KmsDisabled": _KEY,
    "KmsInvalidKeyUsage": _KEY,
    "KmsInvalidState": _KEY,
    "KmsNotFound": _KEY,
    "KmsOptInRequired": _KEY,
    "KmsThrottled": _BUSY,
    "MessageNotInflight": _GONE,
    "MissingParameter": _OURS,
    "NonExistentQueue": _MISSING,
    "OptInRequired": _denied("the account has not enabled this service or region"),
    "OverLimit": ErrorClass(
        ErrorCode.THROTTLED,
        retryable=True,
        scope="queue",
        sent="no",
        detail="too many messages of the queue are leased (about 120,000 are allowed); settle some",
    ),
    "PurgeQueueInProgress": ErrorClass(
        ErrorCode.THROTTLED,
        retryable=True,
        scope="queue",
        sent="no",
        retry_after_s=_PURGE_S,
        detail="the queue was purged within the last 60 s; wait for a minute, then purge again",
    ),
    "QueueAlreadyExists": ErrorClass(
        ErrorCode.EXISTS, scope="queue", sent="no", detail="the queue exists with other settings"
    ),
    "QueueDeletedRecently": ErrorClass(
        ErrorCode.THROTTLED,
        retryable=True,
        scope="queue",
        sent="no",
        retry_after_s=_PURGE_S,
        detail="a queue of this name was deleted within the last 60 s; wait for a minute, then create it again",
    ),
    "QueueDoesNotExist": _MISSING,
    "QueueNameExists": ErrorClass(
        ErrorCode.EXISTS, scope="queue", sent="no", detail="the queue exists with other settings"
    ),
    "ReceiptHandleIsInvalid": _GONE,
    "RequestExpired": _NO_LOGIN,
    "RequestThrottled": _BUSY,
    "RequestLimitExceeded": _BUSY,
    "ResourceNotFoundException": _MISSING,
    "ServiceUnavailable": _DOWN,
    "SignatureDoesNotMatch": _NO_LOGIN,
    "SlowDown": _BUSY,
    "Throttling": _BUSY,
    "ThrottlingException": _BUSY,
    "TooManyEntriesInBatchRequest": _OURS,
    "TooManyRequestsException": _BUSY,
    "UnrecognizedClientException": _NO_LOGIN,
    "UnsupportedOperation": ErrorClass(
        ErrorCode.UNSUPPORTED, scope="queue", sent="no", detail="the queue cannot do this; see the cause"
    ),
}
"""By the service's code, in its old or its new spelling, without the prefix that some carry."""

_PREFIXES = ("AWS.SimpleQueueService.", "com.amazonaws.sqs#")
_MODULE = "botocore.exceptions"
_TOO_LONG = "must be shorter than"
_HANDLE = "receipthandle"


class DamagedAnswerError(Exception):
    """What arrived is not what the service sent, by its own digest."""


class DifferentSettingsError(Exception):
    """The queue exists, with other settings than those that it should be made with."""


def classify(error: BaseException) -> ErrorClass:
    """See `Backend.classify`."""
    if isinstance(error, DamagedAnswerError):
        return replace(_DAMAGED, detail=str(error))
    if isinstance(error, DifferentSettingsError):
        return replace(CODES["QueueNameExists"], detail=str(error))
    for kind in type(error).__mro__:
        if kind.__module__ == _MODULE and kind.__name__ == "ClientError":
            return _named(_of_answer(getattr(error, "response", {})), getattr(error, "operation_name", ""))
        if kind.__module__ == _MODULE and kind.__name__ in EXCEPTIONS:
            return EXCEPTIONS[kind.__name__]
    return _CUT if isinstance(error, OSError) else ErrorClass(ErrorCode.UNKNOWN)


def lacks_permission(what: ErrorClass) -> bool:
    """Whether the login is good, but a call on the queue is not allowed."""
    return what.code is ErrorCode.ACCESS_DENIED and what.scope == "queue"


def permission_for(operation: str) -> str:
    """The permission that an operation needs; a batch needs that of the single call."""
    return f"sqs:{operation.removesuffix('Batch')}"


def _named(what: ErrorClass, operation: str) -> ErrorClass:
    if what is not NO_PERMISSION or not operation:
        return what
    return replace(what, detail=f"the credentials do not allow {permission_for(operation)} on the queue")


def plain_code(code: str) -> str:
    """A code without the prefix that depends on the service's and the SDK's version."""
    for prefix in _PREFIXES:
        code = code.removeprefix(prefix)
    return code


def codes_of(response: Mapping[str, Any]) -> tuple[str, ...]:
    """The codes of a failed call, without prefixes: botocore tells the old one and the new one."""
    told: Mapping[str, str] = response.get("Error") or {}
    return tuple(plain_code(told[name]) for name in ("QueryErrorCode", "Code") if told.get(name))


def _of_answer(response: Mapping[str, Any]) -> ErrorClass:
    status = (response.get("ResponseMetadata") or {}).get("HTTPStatusCode", 0)
    message = (response.get("Error") or {}).get("Message") or ""
    for code in codes_of(response):
        if code in CODES:
            return _by_text(CODES[code], code, message)
    if status >= 500:
        return _DOWN
    if status == 429:
        return _BUSY
    if status == 403:
        return NO_PERMISSION
    return ErrorClass(ErrorCode.UNKNOWN, sent="no" if status else "maybe")


def of_entry(entry: Mapping[str, Any]) -> ErrorClass:
    """What the failure of one entry of a batch means; whose fault it was decides where the code does not."""
    code, message = plain_code(str(entry.get("Code", ""))), str(entry.get("Message") or "")
    if code in CODES:
        known = replace(_by_text(CODES[code], code, message), scope="entry")
        return replace(known, detail=f"{known.detail} ({code})")
    if entry.get("SenderFault"):
        return ErrorClass(ErrorCode.REFUSED, sent="no", detail=f"the service refused the entry ({code})")
    return ErrorClass(ErrorCode.UNAVAILABLE, retryable=True, sent="no", detail=f"the service failed ({code})")


def _by_text(known: ErrorClass, code: str, message: str) -> ErrorClass:
    """One code means several things, which only its text tells."""
    if code == "InvalidParameterValue":
        if _HANDLE in message.replace(" ", "").lower():
            return _GONE
        if _TOO_LONG in message:
            return replace(known, code=ErrorCode.TOO_LARGE, detail="the message has more bytes than the queue takes")
    return known
