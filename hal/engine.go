package hal

import (
	"context"
	"time"
)

// An Accelerator names what runs a model: "cpu", "xnnpack", "gpu", "edgetpu",
// "cuda", "tensorrt", or "external:<library>", a delegate's file name or path.
type Accelerator string

const (
	Auto     Accelerator = "auto" // the engine chooses, and says in Info.Tried why
	CPU      Accelerator = "cpu"
	XNNPACK  Accelerator = "xnnpack"
	GPU      Accelerator = "gpu"
	EdgeTPU  Accelerator = "edgetpu"
	CUDA     Accelerator = "cuda"
	TensorRT Accelerator = "tensorrt"
)

// An Engine runs models of one or more file formats. It may be used by many
// goroutines at a time.
type Engine interface {
	// Name is the engine's name, as in "tflite".
	Name() string
	// Probe says which devices are here, and for what is missing: why, and the
	// fix in one line.
	Probe(ctx context.Context) ([]Device, []Diagnosis)
	// Open loads a model. Errors wrap an Error with a code.
	Open(ctx context.Context, m Model, o Options) (Session, error)
}

// A Device is one piece of hardware that an engine can run models on.
type Device struct {
	Accelerator Accelerator `json:"accelerator"`
	ID          string      `json:"id,omitempty"`      // for Options.Device, where there may be more than one: "usb:0", "pci:1"
	Name        string      `json:"name"`              // for people
	Runtime     string      `json:"runtime,omitempty"` // engine library and its version, "tflite 2.17.1"
	Driver      string      `json:"driver,omitempty"`  // delegate or provider and its version, "libedgetpu 16.0TF2.17.1"
}

// A Diagnosis is one line of a doctor's report: what was looked for, how it
// stands, and how to mend it.
type Diagnosis struct {
	Subject string `json:"subject"` // "runner tflite", "edgetpu"
	OK      bool   `json:"ok"`
	Detail  string `json:"detail"`        // what was found, or why not
	Fix     string `json:"fix,omitempty"` // one line a person can do; empty when OK
}

// A Model is a model file to open. Exactly the bytes whose SHA-256 is SHA256 are
// run: they are hashed while they are copied into sealed memory.
type Model struct {
	Name   string // for messages
	Path   string
	SHA256 string // lower-case hex; empty for a local file that nobody vouched for
	Size   int64  // bytes; 0 when not known
}

// Options of Engine.Open. The zero value means: auto, one buffer pair, the
// engine's defaults.
type Options struct {
	Accelerator Accelerator   // "" is Auto
	Threads     int           // 0: the engine chooses
	Buffers     int           // input/output buffer sets; 0 means 2
	Deadline    time.Duration // of one Run; 0 means 10 s
	OpenTimeout time.Duration // of Open; 0 means 60 s
	MemoryLimit int64         // bytes that the runner may allocate; 0 means the engine's default

	Weight   float64           // part in the time of an accelerator that several sessions share; 0 means 1
	Device   string            // of the accelerator, a Device.ID; "": the first
	Settings map[string]string // of the accelerator, by its own names: "flags" of xnnpack, "trt_fp16_enable"; nil: its defaults
	Shapes   map[string][]int  // of inputs that the model leaves open, by name

	// What Auto goes by. Engines that do not choose pass over it.
	Order   []Accelerator // to try, best first; empty: the engine's own
	Sibling *Model        // the same model for the plain CPU, where the file runs on one accelerator alone
	Golden  []Sample      // that every candidate has to answer
	Step    func(string)  // told what long work is at ("building the TensorRT engine"); may be nil
}

// A Sample is one input of a model with the answer that is known to be right.
type Sample struct {
	Inputs    [][]byte
	Outputs   [][]byte // one each, or none: then candidates are compared with the plain CPU
	Tolerance float64  // largest difference of a value, as real numbers; 0: the chooser's own
}

// Info describes an open session.
type Info struct {
	Inputs      []TensorInfo  `json:"inputs"`
	Outputs     []TensorInfo  `json:"outputs"`
	Accelerator Accelerator   `json:"accelerator"` // in use
	Runtime     string        `json:"runtime"`     // "tflite 2.17.1"
	Threads     int           `json:"threads"`
	Delegated   int           `json:"delegated"` // ops the accelerator took; -1 when the engine cannot tell
	Ops         int           `json:"ops"`
	Buffers     int           `json:"buffers"`
	Deadline    time.Duration `json:"deadline"`
	SHA256      string        `json:"sha256"`          // of the bytes that run
	Tried       []Attempt     `json:"tried,omitempty"` // candidates that lost, in order

	Device   string            `json:"device,omitempty"`   // in use, where there are several
	Driver   string            `json:"driver,omitempty"`   // delegate or provider and its version
	Settings map[string]string `json:"settings,omitempty"` // of the accelerator, as given
	// Degraded is why a better accelerator than this one is not in use, though it
	// was before; "" while all is well.
	Degraded string `json:"degraded,omitempty"`
	Memory   int64  `json:"memory,omitempty"` // PSS of the runner after opening, bytes; 0 when not known
}

// An Attempt is a candidate that was tried and not taken, and why.
type Attempt struct {
	Accelerator Accelerator       `json:"accelerator"`
	Threads     int               `json:"threads,omitempty"`
	Settings    map[string]string `json:"settings,omitempty"`
	Reason      string            `json:"reason"`
	Took        time.Duration     `json:"took,omitempty"` // p50 of its runs; 0 when it did not come to that
}

// Timing of one Run.
type Timing struct {
	Engine time.Duration // inside the engine's invoke
	Hop    time.Duration // everything else between Run's call and return
}

// A Session is one loaded model with two or more buffers. A buffer belongs to
// one goroutine at a time: fill buffer 1 while buffer 0 runs. Runs themselves are
// one after the other.
type Session interface {
	Info() Info
	// Input is the memory of input i of a buffer, the caller's until Run(buf).
	Input(buf, i int) []byte
	// Output is output i of the last Run(buf), valid until the next Run(buf).
	Output(buf, i int) Tensor
	// Run runs the model on a buffer. An error that wraps ErrLost means the
	// session is gone (runner died, hung, was killed) and must be opened again.
	Run(buf int) (Timing, error)
	// Reset forgets the state that a streaming model keeps between runs.
	Reset() error
	// Close frees the session. Closing twice is allowed.
	Close() error
}
