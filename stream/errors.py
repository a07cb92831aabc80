"""Every error that Offerstream raises on purpose.

    OfferstreamError
    ├── SettingsError        bad settings, all named at once      the command line prints it, exit code 2
    ├── SetupError           broker, topic or port not as needed  the command line prints what to do, exit code 1
    │   └── BrokerSilentError     no broker answers               while taking over anew: asked again, for a while
    ├── ModelRefused         stream.scoring.artefact           a worker counts it and keeps the model in force
    └── PartitionError       a partition cannot go on             the worker logs it and ends, exit code 1
        ├── SourceLostError       events were lost to retention, or the topic is another one
        ├── StoreCorruptError     the local store is not usable: set aside and restored from the changelog
        │   └── LostCommitError       the brokers lost a commit that they had acknowledged
        └── DeliveryError         the broker did not take what was sent
            └── TransactionError      a transaction failed: the partition is taken over anew (`stream.kafka.partitions`)
                ├── FencedError       another worker has taken the partition over, or the broker gave up on ours
                ├── LateCommitError   it was committed, but a copy of the request may come again: a new epoch is needed
                └── HangingError      brokers acknowledged its end and lost it: taken over anew

Bad events are no errors: they become dead letters (`stream.kafka.decode`). A refused model or campaign is counted and
the one in force stays (`stream.kafka.control`). Anything else that is raised is a bug: the process ends at once without
committing, exit code 70, and the next one takes over from the applied records.
"""


class OfferstreamError(Exception):
    """Root of the tree above."""

    exit_code = 1


class SettingsError(OfferstreamError):
    """One or more settings are wrong; the message has a line for each."""

    exit_code = 2


class SetupError(OfferstreamError):
    """What the worker runs on is not as it needs it; the message says what to do."""


class BrokerSilentError(SetupError):
    """No answer from the brokers."""


class PartitionError(OfferstreamError):
    """A partition cannot go on; the message names topic, partition and offset."""


class SourceLostError(PartitionError):
    """Events between the applied offset and the start of the log are gone, or the topic was deleted and made anew."""


class StoreCorruptError(PartitionError):
    """The local store is of another format, cluster or topic, too old, or broken."""


class LostCommitError(StoreCorruptError):
    """The local store has a commit that the changelog does not hold."""


class DeliveryError(PartitionError):
    """A record was refused by the broker or could not be delivered in time."""


class TransactionError(DeliveryError):
    """A transaction was not committed: nothing of it will be seen."""


class FencedError(TransactionError):
    """The brokers take nothing more from this producer: another one has initialised the partition's transactional id.

    Or they gave up on a transaction that took longer than its time-out, which looks the same.
    """


class LateCommitError(TransactionError):
    """A transaction was committed by a request that may come a second time."""


class HangingError(TransactionError):
    """Brokers acknowledged a transaction's end, and no reader sees it; or it was found open, and is aborted now."""
