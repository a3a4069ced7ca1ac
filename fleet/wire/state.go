package wire

// An ExecState is where an execution stands: a rollout on one device, one attempt.
type ExecState string

const (
	Queued         ExecState = "QUEUED"
	WaitingConsent ExecState = "WAITING_CONSENT"
	Downloading    ExecState = "DOWNLOADING"
	Verifying      ExecState = "VERIFYING"
	Staged         ExecState = "STAGED"
	WaitingWindow  ExecState = "WAITING_WINDOW"
	SelfTesting    ExecState = "SELF_TESTING"
	Shadowing      ExecState = "SHADOWING"
	Switching      ExecState = "SWITCHING"
	Probation      ExecState = "PROBATION"

	Succeeded        ExecState = "SUCCEEDED"
	AlreadyInstalled ExecState = "ALREADY_INSTALLED"
	Rejected         ExecState = "REJECTED"
	Failed           ExecState = "FAILED"
	RolledBack       ExecState = "ROLLED_BACK"
	RollbackFailed   ExecState = "ROLLBACK_FAILED"
	TimedOut         ExecState = "TIMED_OUT"
	Canceled         ExecState = "CANCELED"
	Superseded       ExecState = "SUPERSEDED"
	Removed          ExecState = "REMOVED"
)

// Terminal says whether an execution in this state is over.
func (s ExecState) Terminal() bool {
	switch s {
	case Succeeded, AlreadyInstalled, Rejected, Failed, RolledBack, RollbackFailed, TimedOut, Canceled, Superseded, Removed:
		return true
	}
	return false
}

// Valid says whether s is one of the states above.
func (s ExecState) Valid() bool {
	switch s {
	case Queued, WaitingConsent, Downloading, Verifying, Staged, WaitingWindow, SelfTesting, Shadowing, Switching, Probation:
		return true
	}
	return s.Terminal()
}

// Word is the one of five words that people see: waiting, downloading, trying,
// done, failed.
func (s ExecState) Word() string {
	switch s {
	case Queued, WaitingConsent, Staged, WaitingWindow:
		return "waiting"
	case Downloading, Verifying:
		return "downloading"
	case SelfTesting, Shadowing, Switching, Probation:
		return "trying"
	case Succeeded, AlreadyInstalled:
		return "done"
	}
	return "failed"
}

// A RolloutState is where a rollout stands.
type RolloutState string

const (
	RolloutDraft       RolloutState = "DRAFT"
	RolloutApproval    RolloutState = "WAITING_FOR_APPROVAL"
	RolloutScheduled   RolloutState = "SCHEDULED"
	RolloutRunning     RolloutState = "RUNNING"
	RolloutPaused      RolloutState = "PAUSED"
	RolloutRollingBack RolloutState = "ROLLING_BACK"
	RolloutCompleted   RolloutState = "COMPLETED"
	RolloutAborted     RolloutState = "ABORTED"
	RolloutRolledBack  RolloutState = "ROLLED_BACK"
)
