package hal

import "errors"

var (
	// ErrBadFrame marks a frame that could not be read; the source goes on.
	ErrBadFrame = errors.New("bad frame")
	// ErrLost marks a session whose runner is gone.
	ErrLost = errors.New("session lost")
)

// A Code is the machine-readable name of an error, the same in logs, in the
// reported document and in the controller: "E_MODEL_EMPTY".
type Code string

const (
	CodeModelEmpty  Code = "E_MODEL_EMPTY"  // 0 bytes
	CodeModelFormat Code = "E_MODEL_FORMAT" // not a model file, or broken
	CodeModelShort  Code = "E_MODEL_SHORT"  // truncated
	CodeHash        Code = "E_HASH"         // received bytes differ from the manifest
	CodeHashAtRest  Code = "E_HASH_ATREST"  // bytes on disk rotted
	CodeLength      Code = "E_LENGTH"       // more bytes than promised
	CodeOp          Code = "E_OP"           // custom or unknown operator
	CodeRuntime     Code = "E_RUNTIME"      // operator version newer than the runtime
	CodeAccel       Code = "E_ACCEL"        // accelerator absent
	CodeTensor      Code = "E_TENSOR"       // dims overflow or above the ceiling
	CodeShape       Code = "E_SHAPE"        // input is not what the pipeline or manifest says
	CodeLabels      Code = "E_LABELS"       // label count does not fit
	CodeCrash       Code = "E_CRASH"        // runner died by signal
	CodeTimeout     Code = "E_TIMEOUT"      // past its deadline
	CodeMemory      Code = "E_MEMORY"       // past its memory limit
	CodeInvoke      Code = "E_INVOKE"       // the engine's run said no
	CodeGolden      Code = "E_GOLDEN"       // golden output differs
	CodeErrors      Code = "E_ERRORS"       // too many of its runs fail
	CodeSlow        Code = "E_SLOW"         // slower than it may be
	CodeScore       Code = "E_SCORE"        // less sure of its answers than it may be
	CodeHot         Code = "E_HOT"          // the board is hotter than it may be
	CodeFallback    Code = "E_FALLBACK"     // on a worse accelerator than before
	CodeAgreement   Code = "E_AGREEMENT"    // answers otherwise than what runs, or cannot be compared with it
	CodeEngine      Code = "E_ENGINE"       // no engine for this file, or it could not be started
	CodeDisagree    Code = "E_DISAGREE"     // an accelerator's numbers differ from the plain CPU's
	CodeAdmission   Code = "E_ADMISSION"    // no room in memory beside what runs
	CodeImage       Code = "E_IMAGE"        // picture cannot be decoded
	CodeImageSize   Code = "E_IMAGE_SIZE"   // picture above the pixel limit
	CodeZip         Code = "E_ZIP"          // archive packed behind a model is broken or above a limit

	CodeSource        Code = "E_SOURCE"         // source cannot be opened: absent, busy, not allowed, or it cannot do what is asked
	CodeSourceLost    Code = "E_SOURCE_LOST"    // source went away: unplugged, connection cut, program ended
	CodeSourceStalled Code = "E_SOURCE_STALLED" // source is there and gives nothing

	CodePath         Code = "E_PATH"          // illegal file name
	CodeJSON         Code = "E_JSON"          // not the JSON that was expected
	CodeManifest     Code = "E_MANIFEST"      // a release that contradicts itself
	CodeDiskFull     Code = "E_DISK_FULL"     // not enough free space
	CodeDiskRO       Code = "E_DISK_RO"       // file system is read-only
	CodeDiskIO       Code = "E_DISK_IO"       // the disk gave an input/output error
	CodeStateCorrupt Code = "E_STATE_CORRUPT" // state file broken; set aside
	CodeStateLocked  Code = "E_STATE_LOCKED"  // another agent uses the data folder
	CodeStateNewer   Code = "E_STATE_NEWER"   // state file of a later version
	CodeFetch        Code = "E_FETCH"         // a file cannot be had from the controller
	CodeBudget       Code = "E_BUDGET"        // a download takes more bytes than it may
	CodeClock        Code = "E_CLOCK"         // the board's clock cannot be right
	CodeConsent      Code = "E_CONSENT"       // nothing waits for the house's word, or not this
	CodePrivacy      Code = "E_PRIVACY"       // a picture that may not be shown, or not to whoever asks
	CodeQuarantined  Code = "E_QUARANTINED"   // failed here before, and attempt did not rise
	CodePipeline     Code = "E_PIPELINE"      // no such pipeline here, its model is pinned, or it has ended
	CodeRollback     Code = "E_ROLLBACK"      // older than what was taken in before
	CodeTarget       Code = "E_TARGET"        // addressed to another device, or to another pipeline than can take it
	CodeExpired      Code = "E_EXPIRED"       // past its time
	CodeSignature    Code = "E_SIGNATURE"     // not signed by enough of the right keys
	CodeMixed        Code = "E_MIXED"         // signed files that do not belong together
	CodeTrust        Code = "E_TRUST"         // trust metadata that contradicts itself
	CodeUnknown      Code = "E_UNKNOWN"       // an error without a code of its own
	CodeConfig       Code = "E_CONFIG"        // configuration file
)

// An Error is an error with a code. Text is one line and says what to do.
type Error struct {
	Code Code
	Text string
	Err  error // may be nil
}

// Error is "E_CODE: text".
func (e *Error) Error() string { return string(e.Code) + ": " + e.Text }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code of the first Error in err's chain, "" when there is none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
