package local

import (
	"context"
	"errors"
	"time"

	"github.com/covey-edge/covey/hal"
)

// Limits of what people may draw, and of what a Board hands over.
const (
	MaxZones     = 16 // of a pipeline; as many masks
	MaxPoints    = 64 // of one
	MaxEvents    = 100
	MaxPreviewHz = 5
)

// What a Board's error wraps, where the caller and not the board is at fault. Its
// text is what the person reads: what happened and what to do.
var (
	ErrNotFound = errors.New("not found")   // no such pipeline, setting or picture: 404
	ErrLocked   = errors.New("locked")      // pinned by the file or the fleet: 409
	ErrPrivate  = errors.New("not allowed") // by the privacy class: 403
)

// A Board is what the page shows and sets. All methods may be called by any
// goroutine at any time and none but Doctor may block for long; what they return is
// the caller's. A pipeline that is not there is an error that wraps ErrNotFound.
type Board interface {
	Status() Status
	// Stages are histograms of where the time of frames goes, of all pipelines.
	Stages() []Stage
	// Events are those with a Seq above after, oldest first, the newest MaxEvents
	// at the most.
	Events(after uint64) []Event
	// EventPicture is the JPEG of an event.
	EventPicture(id string) ([]byte, error)
	Doctor(ctx context.Context) ([]hal.Diagnosis, error)

	// Preview sends what a pipeline sees, MaxPreviewHz a second at the most, until ctx
	// ends; the newest wins, a slow receiver delays nobody. The board closes the
	// channel after ctx or with the pipeline. Where the privacy class allows no
	// pictures, views have none.
	Preview(ctx context.Context, pipeline string) (<-chan View, error)

	Regions(pipeline string) (Regions, error)
	// SetRegions replaces zones and masks, which the Server has checked, with effect
	// on the next frame, and keeps them.
	SetRegions(pipeline string, zones, masks []Zone) error

	Settings(pipeline string) ([]Setting, error)
	// Set takes a float64 or a bool, which the Server has checked against the
	// setting's kind and range, or nil: forget what was set here. It has its effect
	// with the next frame, and lasts.
	Set(pipeline, setting string, value any) error
}

// Status is how the board is.
type Status struct {
	Device   string            `json:"device"`
	Board    string            `json:"board"`    // its hardware
	Version  string            `json:"version"`  // of the agent
	Runtimes map[string]string `json:"runtimes"` // engine → version
	Now      time.Time         `json:"now"`
	Uptime   float64           `json:"uptime_s"` // of the agent
	// NotReady is one word for why the board does not do its work yet ("starting",
	// "model", "source"); "" when it does.
	NotReady  string     `json:"not_ready,omitempty"`
	Memory    int64      `json:"memory"` // PSS of the agent, bytes; 0: not known
	Gauges    Gauges     `json:"gauges"`
	Links     []Link     `json:"links"`
	Outbox    Outbox     `json:"outbox"`
	Pipelines []Pipeline `json:"pipelines"` // in the order of the configuration
}

// Gauges are nil where the board has none.
type Gauges struct {
	CPU         *float64 `json:"cpu_percent,omitempty"`
	Temperature *float64 `json:"temperature_c,omitempty"`
	MemoryFree  *int64   `json:"memory_free,omitempty"` // bytes
	DiskFree    *int64   `json:"disk_free,omitempty"`   // bytes
	Throttled   bool     `json:"throttled"`
}

// A Link is one to the fleet or to the home; one that is not configured is left out.
type Link struct {
	Name string `json:"name"` // fleet, home
	Up   bool   `json:"up"`
	Text string `json:"text,omitempty"` // why it is not up
}

// Outbox is what waits to be sent.
type Outbox struct {
	Waiting int64    `json:"waiting"`
	Lost    uint64   `json:"lost"`
	Flags   []string `json:"flags,omitempty"` // codes
}

// A State of a pipeline.
type State string

const (
	StateRuns     State = "runs"
	StateDegraded State = "degraded" // gives results, and something is wrong: see Code, Text
	StateStarting State = "starting" // no model or no frame yet
	StateFailed   State = "failed"   // gives no results: see Code, Text
	StateOff      State = "off"      // switched off
)

// A Pipeline is how one does.
type Pipeline struct {
	Name      string            `json:"name"`
	Source    string            `json:"source"` // its type
	Kind      string            `json:"kind"`   // detect, classify, …; "" without a model
	State     State             `json:"state"`
	Code      string            `json:"code,omitempty"`
	Text      string            `json:"text,omitempty"`
	FPS       float64           `json:"fps"`
	P50       float64           `json:"p50_ms"` // from captured to published
	P99       float64           `json:"p99_ms"`
	Captured  uint64            `json:"captured"`
	Published uint64            `json:"published"`
	Dropped   map[string]uint64 `json:"dropped"` // by reason: stale, still, busy, outbox, error
	Model     Model             `json:"model"`
	// Accelerator is the one in use; Tried is what was tried for it, the one in use among them.
	Accelerator string    `json:"accelerator"`
	Tried       []Attempt `json:"tried"`
	Memory      int64     `json:"memory"` // PSS of the runner, bytes; 0: not known
	Privacy     Privacy   `json:"privacy"`
	// Aspect is width by height of the picture; 0: not known, or no pictures.
	Aspect float64 `json:"aspect"`
}

// A Model is what a pipeline runs; empty: nothing yet.
type Model struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA     string `json:"sha"`
}

// An Attempt is an accelerator that a model was tried on.
type Attempt struct {
	Accelerator string  `json:"accelerator"`
	Detail      string  `json:"detail,omitempty"` // threads and settings, in words
	Ms          float64 `json:"ms,omitempty"`     // of a run; 0: none was timed
	InUse       bool    `json:"in_use"`
	Reason      string  `json:"reason,omitempty"` // why it is not in use
}

// Privacy is what of a pipeline may leave it.
type Privacy struct {
	Class    string `json:"class"`
	Pictures bool   `json:"pictures"` // may be shown here
	Text     string `json:"text"`     // the class in a person's words, one sentence
}

// A Stage is how long one step of a pipeline took, as counts in fine buckets. The
// Server folds them into fewer.
type Stage struct {
	Pipeline string
	Stage    string          // capture, fill, run, decode, publish, total
	Upper    []time.Duration // ends of buckets, rising
	Counts   []uint64        // of each bucket alone; as many
	Sum      time.Duration   // of all that was counted
}

// An Event is one of a pipeline: something came, changed or went.
type Event struct {
	Seq      uint64      `json:"seq"` // rises; says where to go on
	ID       string      `json:"id"`  // the same from start to end; letters, digits, "-", "_", "."
	TS       time.Time   `json:"ts"`
	Pipeline string      `json:"pipeline"`
	Type     string      `json:"type"` // start, update, end
	Label    string      `json:"label"`
	Zone     string      `json:"zone,omitempty"`
	Score    float32     `json:"score"`
	Count    int         `json:"count,omitempty"`
	Box      *[4]float32 `json:"box,omitempty"`
	Picture  bool        `json:"picture"` // EventPicture has one
}

// A View is what a pipeline saw at one time.
type View struct {
	TS    time.Time `json:"ts"`
	JPEG  []byte    `json:"jpeg,omitempty"` // nil: none may be shown
	Items []Item    `json:"items"`          // what the model said of just this picture
}

// An Item is one thing that was seen.
type Item struct {
	Label string      `json:"label"`
	Score float32     `json:"score"`
	Track string      `json:"track,omitempty"`
	Box   *[4]float32 `json:"box,omitempty"` // x0, y0, x1, y1 in 0..1
}

// A Zone is a polygon on the picture; a mask is one, too.
type Zone struct {
	ID     string       `json:"id"`     // [a-z0-9-]{1,32}
	Points [][2]float64 `json:"points"` // 3 to MaxPoints of them, in 0..1, closed by itself
}

// An Origin says who has set a value.
type Origin string

const (
	OriginFile    Origin = "file" // wins over all below
	OriginFleet   Origin = "fleet"
	OriginHome    Origin = "home" // this page, or the home link
	OriginDefault Origin = "default"
)

// Regions are where events happen and where nothing counts.
type Regions struct {
	Zones  []Zone `json:"zones"`
	Masks  []Zone `json:"masks"`
	Origin Origin `json:"origin"`
	// Locked is why they cannot be changed here; "" when they can.
	Locked string `json:"locked,omitempty"`
}

// A Setting is a value that a person may change.
type Setting struct {
	Name   string  `json:"name"`  // [a-z0-9_]: threshold, enabled
	Title  string  `json:"title"` // for people
	Value  any     `json:"value"` // a float64 or a bool, which says its kind
	Min    float64 `json:"min,omitempty"`
	Max    float64 `json:"max,omitempty"`
	Step   float64 `json:"step,omitempty"`
	Origin Origin  `json:"origin"`
	// Locked is why it cannot be changed here; "" when it can.
	Locked string `json:"locked,omitempty"`
}
