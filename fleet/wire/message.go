package wire

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// Status is up/status: birth, stop, and (as the will) death.
type Status struct {
	V     int       `json:"v"`
	State string    `json:"state"` // online, stopped, offline
	SID   uint64    `json:"sid"`   // counts connections of this device; an offline with an old sid is ignored
	MID   string    `json:"mid"`   // hash of the machine id: tells two machines with one identity apart
	TS    time.Time `json:"ts"`
}

const (
	StateOnline  = "online"
	StateStopped = "stopped"
	StateOffline = "offline"
)

// Hello is up/hello: who this board is.
type Hello struct {
	V            int               `json:"v"`
	SID          uint64            `json:"sid"`
	BootID       string            `json:"boot_id"`
	Agent        string            `json:"agent"` // version
	OS           string            `json:"os"`
	Arch         string            `json:"arch"`
	Board        string            `json:"board"`
	Profile      string            `json:"profile,omitempty"` // what is known of its kind: "raspberrypi-5"
	Disk         string            `json:"disk,omitempty"`    // beneath the state volume: sd, emmc, nvme, ssd, hdd
	CPUs         int               `json:"cpus"`
	RAM          int64             `json:"ram"` // bytes
	Accelerators []HelloDevice     `json:"accelerators"`
	Runtimes     map[string]string `json:"runtimes"` // engine → version
	Pipelines    []HelloPipeline   `json:"pipelines"`
	MaxBlock     int               `json:"max_block"`
	Labels       map[string]string `json:"labels,omitempty"` // of its own configuration; the operator's win
	CertExpires  time.Time         `json:"cert_expires,omitzero"`
	TS           time.Time         `json:"ts"`
}

// HelloDevice is one accelerator of a board.
type HelloDevice struct {
	Engine      string `json:"engine"`
	Accelerator string `json:"accelerator"`
	ID          string `json:"id,omitempty"` // where there may be more than one: "usb:0"
	Name        string `json:"name"`
	Driver      string `json:"driver,omitempty"` // and its version
}

// HelloPipeline is one pipeline of a board's configuration.
type HelloPipeline struct {
	Name   string `json:"name"`
	Source string `json:"source"`
	Pinned bool   `json:"pinned"` // its model is named by the local config; the fleet cannot change it
}

// Health is up/health in the brief form.
type Health struct {
	V         int                       `json:"v"`
	TS        time.Time                 `json:"ts"`
	Up        int64                     `json:"up"`             // seconds the agent has run
	CPU       float64                   `json:"cpu"`            // percent of all cores
	Mem       float64                   `json:"mem"`            // percent of RAM in use
	RSS       int64                     `json:"rss"`            // bytes, of the agent
	Temp      *float64                  `json:"temp,omitempty"` // °C
	Throttled bool                      `json:"thr,omitempty"`
	Disk      float64                   `json:"disk"`           // percent of the state volume in use
	Wrote     int64                     `json:"wr,omitempty"`   // bytes that the agent wrote to disks in the last 24 hours, or since it started
	Wear      int                       `json:"wear,omitempty"` // percent of its life that the state volume's eMMC has used, at most; 0: it does not tell
	EOL       int                       `json:"eol,omitempty"`  // of its spare blocks 2: most are used, 3: hardly any are left
	Outbox    int64                     `json:"outbox"`
	Lost      uint64                    `json:"lost,omitempty"`
	Flags     []string                  `json:"flags,omitempty"` // codes: "duplicate_identity", "low_voltage", "worn_disk"
	Pipes     map[string]PipelineHealth `json:"pipes"`
}

// PipelineHealth counts frames since the agent started:
// captured = published + the sum of drops, at all times a frame is not under way.
type PipelineHealth struct {
	FPS       float64           `json:"fps"`
	P50       float64           `json:"p50"` // ms from captured to published
	P99       float64           `json:"p99"`
	Captured  uint64            `json:"cap"`
	Published uint64            `json:"pub"`
	Dropped   map[string]uint64 `json:"drop,omitempty"` // stale, still, busy, outbox, error
	Degraded  string            `json:"deg,omitempty"`  // a code
	// Memory is what the pipeline's runner takes, bytes: its PSS, in which what several
	// processes share is divided among them. Pipelines on one exclusive device share a
	// runner, and each says the whole. 0: not known.
	Memory int64 `json:"mem,omitempty"`
	// Drift is how far the last day was from the model's first one; nil: not known.
	Drift *Drift `json:"drift,omitempty"`
}

// Drift is how far what a model is shown and says is from what was usual, each from 0
// (not at all) to 1.
type Drift struct {
	Light  float64 `json:"light"`  // brightness of frames: the distance of Kolmogorov and Smirnov
	Scores float64 `json:"scores"` // of what is named first: the same
	Labels float64 `json:"labels"` // that are named first: half the sum of the differences of their shares
}

// DegradedFallback is the code of a pipeline that gives results, on a worse
// accelerator than it did: Reported has the reason.
const DegradedFallback = "E_FALLBACK"

// Desired is dn/desired: the whole of what the controller wants of one device.
// Until releases are signed, Signatures is empty.
type Desired struct {
	Signed     DesiredSigned     `json:"signed"`
	Signatures []json.RawMessage `json:"signatures"`
}

// DesiredSigned is the part of Desired that will be signed.
type DesiredSigned struct {
	V         int                       `json:"v"`
	Rev       uint64                    `json:"rev"` // only grows
	Device    DeviceID                  `json:"device"`
	Expires   time.Time                 `json:"expires,omitzero"`
	Pipelines map[string]DesiredRelease `json:"pipelines"`
	Config    DesiredConfig             `json:"config"`
	// Trust is what people have signed, as a blob: it says which releases may run.
	// nil: nobody signs in this fleet.
	Trust *DesiredTrust `json:"trust,omitempty"`
}

// DesiredTrust names a blob of trust metadata.
type DesiredTrust struct {
	SHA256 Digest `json:"sha256"`
	Length int64  `json:"length"` // bytes
}

// DesiredRelease says which release a pipeline should run.
type DesiredRelease struct {
	Release   Digest `json:"release"` // digest of the manifest, which is a blob of this name
	Length    int64  `json:"length"`  // of the manifest, bytes
	Name      string `json:"name"`
	Version   string `json:"version"`
	Execution string `json:"execution"`
	Attempt   int    `json:"attempt"` // grows when an operator asks again for what was quarantined
	Mode      string `json:"mode"`    // stage, activate; an execution that was staged goes on when it becomes activate
	// How the device gets there. It is signed, and what is signed has no fractions.
	Consent   bool             `json:"consent,omitempty"`   // somebody at home has to say install first
	Window    *Window          `json:"window,omitempty"`    // when it may be tried; nil: at any time
	Rate      int64            `json:"rate,omitempty"`      // of the download, bytes a second; 0: as fast as it goes
	BytesMax  int64            `json:"bytes_max,omitempty"` // what this execution may download; 0: all
	Probation *ProbationLimits `json:"probation,omitempty"` // nil: the device's own
	Shadow    *ShadowRun       `json:"shadow,omitempty"`    // nil: none
}

const (
	// ModeStage asks for a release to be downloaded and verified, and no more.
	ModeStage = "stage"
	// ModeActivate asks for a release to be installed and run.
	ModeActivate = "activate"
)

// ConfigPipeline is the name under which a release of configuration is wanted and
// reported. It is of the whole board; no pipeline may be called so.
const ConfigPipeline = "config"

// A Window is when a device may try a release: for Minutes from every moment that
// Cron names, in the device's own local time. What is being tried when it closes is
// tried to its end.
type Window struct {
	Cron     string `json:"cron"`               // minute hour day-of-month month day-of-week
	Minutes  int    `json:"minutes"`            // 1…10080
	Download bool   `json:"download,omitempty"` // downloads wait for it, too
}

// ProbationLimits are what a release must keep to after the switch, or it is taken
// back. 0 of any: the device's own limit, which for ratios is none.
type ProbationLimits struct {
	Seconds  int   `json:"seconds,omitempty"`        // how long it lasts at the most
	Results  int   `json:"results,omitempty"`        // after so many good ones it is over
	Errors   int   `json:"errors_percent,omitempty"` // of its runs may fail
	Latency  int   `json:"latency_ms,omitempty"`     // p50 of its runs
	Slower   int   `json:"slower_percent,omitempty"` // its p50, in percent of what ran before: 150 is half as slow again
	Score    int   `json:"score_percent,omitempty"`  // the mean of its first scores, in percent of what ran before: 50 is half as sure
	Memory   int64 `json:"memory,omitempty"`         // bytes its runner may take, as PSS
	TempMax  int   `json:"temp_max,omitempty"`       // °C of the board
	Fallback bool  `json:"fallback,omitempty"`       // losing its accelerator is a failure
}

// A ShadowRun is how a release is held against the one that runs, on live frames
// and without publishing anything, before the switch.
type ShadowRun struct {
	Frames    int `json:"frames"`                      // that both have answered, 1…100000
	Seconds   int `json:"seconds,omitempty"`           // it ends then with the frames it has; 0: an hour
	Every     int `json:"every,omitempty"`             // only each n-th frame; 0: as fast as the board can beside its work
	Agreement int `json:"agreement_percent,omitempty"` // of frames that must agree; less is a refusal. 0: only reported
}

// DesiredConfig is what a fleet may set on a board besides releases.
type DesiredConfig struct {
	HealthSeconds int      `json:"health_seconds,omitempty"` // 0: the default, 60
	Results       []string `json:"results,omitempty"`        // pipelines whose results the fleet asks for; "*" is all
	Events        []string `json:"events,omitempty"`         // the same for events
}

// Reported is up/reported: what a device runs and what it thinks of what is desired.
type Reported struct {
	V          int                         `json:"v"`
	Rev        uint64                      `json:"rev"` // of the desired document that was last taken in
	SID        uint64                      `json:"sid"`
	TS         time.Time                   `json:"ts"`
	Pipelines  map[string]ReportedPipeline `json:"pipelines"`
	Quarantine []Quarantined               `json:"quarantine,omitempty"`
	Error      *Fault                      `json:"error,omitempty"` // about the desired document itself
}

// ReportedPipeline is one pipeline of Reported.
type ReportedPipeline struct {
	Active      *ReportedSlot `json:"active,omitempty"`
	Previous    *ReportedSlot `json:"previous,omitempty"`
	Candidate   *ReportedSlot `json:"candidate,omitempty"`
	Accelerator string        `json:"accelerator,omitempty"`
	Pinned      bool          `json:"pinned,omitempty"`
	Execution   string        `json:"execution,omitempty"` // the last one
	State       ExecState     `json:"state,omitempty"`     // of that execution
	Fault       *Fault        `json:"fault,omitempty"`
	Degraded    string        `json:"degraded,omitempty"` // why a better accelerator is not in use, though it was
	// Tried is why other accelerators lost, one line each. It is left out where the
	// document would become too long.
	Tried []ReportedAttempt `json:"tried,omitempty"`
	// Refused is why the release's better variants do not fit this board, one reason each.
	Refused  []Fault   `json:"refused,omitempty"`
	Evidence *Evidence `json:"evidence,omitempty"` // of that execution
}

// Evidence is what was measured of a release while it was tried.
type Evidence struct {
	Model  Digest     `json:"model"` // the variant's file
	Accel  string     `json:"accel,omitempty"`
	Trial  *Measure   `json:"trial,omitempty"`  // in probation
	Before *Measure   `json:"before,omitempty"` // of what ran until then, over as many frames or fewer
	Shadow *Agreement `json:"shadow,omitempty"`
	Temp   *float64   `json:"temp,omitempty"` // °C, the highest in probation
	// Drift is how far what it named first differs from what ran before, 0…1: half the
	// sum of the differences of the labels' shares. nil: too few runs to say.
	Drift *float64 `json:"drift,omitempty"`
}

// A Measure is how a model did over some frames.
type Measure struct {
	Runs   int     `json:"runs"`
	Errors int     `json:"errors,omitempty"` // of Runs
	P50    float64 `json:"p50"`              // of the engine's time, ms
	P99    float64 `json:"p99"`
	Score  float64 `json:"score,omitempty"` // mean of the first item's score, over results that have one
	Memory int64   `json:"mem,omitempty"`   // bytes of its runner, PSS
}

// Agreement is how a candidate in shadow did against the model that runs.
type Agreement struct {
	Metric string  `json:"metric"` // top1, f1, miou, nrmse: by task; none: the two were not compared
	Frames int     `json:"frames"` // that both answered
	Agreed int     `json:"agreed"` // of Frames
	Mean   float64 `json:"mean"`   // of the metric
	Delta  float64 `json:"delta"`  // mean of |difference of the first scores|
}

// ReportedAttempt is an accelerator that was tried for a model and not taken.
type ReportedAttempt struct {
	Accelerator string  `json:"accelerator"`
	Reason      string  `json:"reason"`
	Ms          float64 `json:"ms,omitempty"` // p50 of its runs, where it came to that
}

// ReportedSlot is a release in a slot. SHA256 is of the variant's file.
type ReportedSlot struct {
	Release Digest `json:"release"`
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA256  Digest `json:"sha256"`
}

// Quarantined is a release that failed here and is not tried again until its
// attempt number rises.
type Quarantined struct {
	Release Digest    `json:"release"`
	Attempt int       `json:"attempt"`
	Code    string    `json:"code"`
	At      time.Time `json:"at"`
}

// A Fault is a reason: a code for programs, one line for people.
type Fault struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

// ExecStep is up/exec/<execution>. It is idempotent and safe to reorder: N only
// grows within an execution.
type ExecStep struct {
	V         int       `json:"v"`
	ID        string    `json:"id"` // device/execution/n
	Seq       uint64    `json:"seq"`
	Execution string    `json:"execution"`
	Pipeline  string    `json:"pipeline"`
	Release   Digest    `json:"release"`
	N         int       `json:"n"`
	State     ExecState `json:"state"`
	TS        time.Time `json:"ts"`
	Done      int64     `json:"done,omitempty"`  // bytes here
	Total     int64     `json:"total,omitempty"` // bytes in all
	Fault     *Fault    `json:"fault,omitempty"`
	// GapMS is for how long nothing ran, ms, where the board has no room for two models
	// and the old one was stopped before the new one was opened: a cold swap. 0: there
	// was none, models were exchanged between two frames.
	GapMS    int64     `json:"gap_ms,omitempty"`
	Evidence *Evidence `json:"evidence,omitempty"` // with the states that have any
}

// Result is one answer of a model, on up/result and on the home tree.
type Result struct {
	V     int       `json:"v"`
	ID    string    `json:"id"`  // unique, the same on every link and every resend
	Seq   uint64    `json:"seq"` // per class and link, without a gap
	SID   uint64    `json:"sid"`
	TS    time.Time `json:"ts"` // when the frame was captured
	Pipe  string    `json:"pipe"`
	Frame uint64    `json:"frame"`
	Name  string    `json:"name,omitempty"` // of the frame: a file's name
	Model ModelRef  `json:"model"`
	Accel string    `json:"accel"`
	LatMS Latency   `json:"lat_ms"`
	Kind  string    `json:"kind"` // one of Kinds
	Items []Item    `json:"items"`
	// Late is true for what did not go out at once: it was held back while the link was
	// down, or waited.
	Late bool `json:"late,omitempty"`
}

// ModelRef says which model gave a result.
type ModelRef struct {
	Name string `json:"name"`
	Ver  string `json:"ver"`
	SHA  string `json:"sha"` // first 16 digits
}

// Latency of one frame, ms.
type Latency struct {
	Pre  float64 `json:"pre"`
	Inv  float64 `json:"inv"`
	Post float64 `json:"post"`
}

// Kinds are what results can be of.
var Kinds = []string{"classify", "detect", "segment", "pose", "depth", "text", "embed", "audio", "series", "raw"}

// Item is one thing a model saw. What it has besides label, id and score depends on
// the kind of result.
type Item struct {
	Label string      `json:"label"`
	ID    int         `json:"id"`
	Score float32     `json:"score"`
	Box   *[4]float32 `json:"box,omitempty"` // x0, y0, x1, y1 in 0..1 of the frame
	// Angle turns the box about its middle, radians, clockwise as one sees it.
	Angle float32 `json:"angle,omitempty"`
	// Points are x and y in 0..1 of the frame and a score each, in the model's order.
	Points [][3]float32 `json:"points,omitempty"`
	Area   float32      `json:"area,omitempty"` // share of the frame that it covers, where its pixels are known
	Mask   *Mask        `json:"mask,omitempty"`
}

// Mask says which pixels of a part of the frame are of an item. Rows and columns are
// cells of that part, counts the lengths of runs out of and in the item in turns, column
// after column, written as COCO's tools write them ("rle", compressed).
type Mask struct {
	Box    [4]float32 `json:"box"`  // x0, y0, x1, y1 of the frame; beyond 0..1 where the model saw more than the frame
	Size   [2]int     `json:"size"` // rows, columns
	Counts string     `json:"counts"`
}

// CloneItems copies items with all that they point to.
func CloneItems(items []Item) []Item {
	c := slices.Clone(items)
	for i := range c {
		if b := c[i].Box; b != nil {
			box := *b
			c[i].Box = &box
		}
		c[i].Points = slices.Clone(c[i].Points)
		if m := c[i].Mask; m != nil {
			mask := *m
			mask.Counts = strings.Clone(m.Counts)
			c[i].Mask = &mask
		}
	}
	return c
}

// Lost replaces records of a class that will never come: they were dropped by a
// cap, or the agent died before it had written them down. It travels on the
// topic of its class, with "lost" as its only content.
type Lost struct {
	V    int      `json:"v"`
	ID   string   `json:"id"`
	Seq  uint64   `json:"seq"` // equal to Lost.To
	Lost LostSpan `json:"lost"`
}

// LostSpan is a range of seq, both ends included.
type LostSpan struct {
	Class  string    `json:"class"`
	From   uint64    `json:"from"`
	To     uint64    `json:"to"`
	Reason string    `json:"reason"` // bytes, age, crash (some of them may have come), damaged
	TS     time.Time `json:"ts"`
}

// BlockGet is up/block/get: a device asks for blocks of a blob. Bits is a
// base64 bitmap of wanted blocks beginning at From, lowest bit of the first byte
// first; the answer is at most Max blocks, each on dn/block/<sha16>/<n>: one flag
// byte, then bytes. Base is a blob that the device has: blocks may then come as
// differences from it.
type BlockGet struct {
	V    int    `json:"v"`
	SHA  Digest `json:"sha"`
	From int    `json:"from"`
	Bits []byte `json:"bits"`
	Max  int    `json:"max"`
	Base Digest `json:"base,omitempty"`
}

// Flags of a block. A difference is an offset in the base (four bytes, the highest
// first), then the coded bytes of new minus old, modulo 256; behind the base's end
// the old bytes are 0.
const (
	BlockRaw     = 0
	BlockZstd    = 1
	BlockGone    = 2 // the controller has no such blob for this device; the rest is a one-line reason
	BlockDiff    = 3 // a difference, compressed by zstd
	BlockDiffFSE = 4 // a difference, coded by finite state entropy
)
