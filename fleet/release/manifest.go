// Package release is what a release is: a folder with a manifest, release.json,
// that names every file by length, SHA-256 and the SHA-256 of each 64 KiB block.
// Its digest is the SHA-256 of the canonical manifest. Both ends import it.
package release

// FileName is the manifest's name in a release's folder.
const FileName = "release.json"

// Limits of a manifest, checked by Parse.
const (
	MaxManifest = 1 << 20 // bytes
	MaxFile     = 1 << 30 // bytes, of one file
	MaxFiles    = 64
	MaxConfig   = 256 << 10 // bytes, of a configuration
	MaxLabels   = 4 << 20   // bytes, of the labels; the agent has them in memory
	MaxSample   = 64 << 20  // bytes, of one tensor of a golden sample; as well
)

// A Manifest describes a release: of a model, or of configuration. The canonical
// form is what Canonical writes.
type Manifest struct {
	Schema   string    `json:"$schema,omitempty"`  // for editors; not part of the release
	V        int       `json:"v"`                  // 1
	Name     string    `json:"name"`               // [a-z0-9-]{1,32}
	Version  string    `json:"version"`            // semver
	Task     string    `json:"task"`               // classify, detect, raw; "" for auto
	Labels   *File     `json:"labels,omitempty"`   // text, a label a line; absent: from the model's metadata
	Variants []Variant `json:"variants,omitempty"` // at least one, best first
	Golden   []Golden  `json:"golden,omitempty"`
	Decode   Decode    `json:"decode,omitzero"`
	License  string    `json:"license,omitempty"`
	Notes    string    `json:"notes,omitempty"`
	Author   string    `json:"author,omitempty"`
	Lineage  Lineage   `json:"lineage,omitzero"`
	Result   *Result   `json:"result,omitempty"` // what its users get; nil: not said
	// Config is a piece of an agent's configuration, YAML: pipelines, thresholds, zones.
	// A release that has it is of configuration, and of nothing else.
	Config *File `json:"config,omitempty"`
}

// A File of a release. Name is relative, without "..", and names it for people;
// SHA256 is its identity.
type File struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	Length int64  `json:"length"`
	Blocks []byte `json:"blocks"` // SHA-256 of every 64 KiB block, 32 bytes each, one behind the other
}

// A Variant is one model file, for one engine.
type Variant struct {
	Engine       string `json:"engine"`                 // tflite, onnx
	Accelerator  string `json:"accelerator,omitempty"`  // "" any; edgetpu: compiled for it
	Arch         string `json:"arch,omitempty"`         // GOARCH; "" any
	Quantisation string `json:"quantisation,omitempty"` // one of Quantisations; "" not said
	MinRAM       int64  `json:"min_ram,omitempty"`      // bytes of the board
	MinRuntime   string `json:"min_runtime,omitempty"`  // of the engine's library, "2.17" or "1.24.1"
	Ops          int    `json:"ops,omitempty"`          // ONNX: the version of the operator set (opset); 0 not said
	// Sibling is the name of another variant's file: the same model for any
	// accelerator. A file that is compiled for an Edge TPU needs one, to be held
	// against and to fall back to; a board pins both.
	Sibling string `json:"sibling,omitempty"`
	// Tolerance is in the place of every golden sample's, where it is not 0.
	Tolerance float64 `json:"tolerance,omitempty"`
	// Budgets of this file on the boards it is for: a board that is above one of them
	// after the switch goes back. 0: none.
	LatencyMS float64 `json:"latency_ms,omitempty"` // p50 of the engine's time
	Memory    int64   `json:"memory,omitempty"`     // bytes of its runner, PSS
	File      File    `json:"file"`
}

// Quantisations are what a model's weights and values are kept as. dynamic: weights of
// 8 bits, values of float32.
var Quantisations = []string{"int8", "uint8", "int16", "dynamic", "float16", "float32"}

// ToleranceOf is how far an output of a golden sample may be from the one expected
// when v answers, in real units.
func (v Variant) ToleranceOf(g Golden) float64 {
	if v.Tolerance != 0 {
		return v.Tolerance
	}
	return g.Tolerance
}

// SiblingOf is the variant that v falls back to, nil when it needs none.
func (m *Manifest) SiblingOf(v Variant) *Variant {
	for i := range m.Variants {
		if s := &m.Variants[i]; v.Sibling != "" && s.File.Name == v.Sibling && s.Engine == v.Engine {
			return s
		}
	}
	return nil
}

// A Golden is one sample with a known answer: tensor bytes in, tensor bytes out.
type Golden struct {
	Inputs    []File  `json:"inputs"`
	Outputs   []File  `json:"outputs,omitempty"`
	Tolerance float64 `json:"tolerance,omitempty"` // largest |difference| of any element, in real (dequantised) units
	Label     string  `json:"label,omitempty"`     // the label that must come first
}

// Lineage is where a model comes from, in its maker's words.
type Lineage struct {
	Parent  string `json:"parent,omitempty"`  // the release it was made from: name@version, or a digest
	Dataset string `json:"dataset,omitempty"` // and its version
	Commit  string `json:"commit,omitempty"`  // of the training's code
}

// A Result is what those who use a model's results can build on.
type Result struct {
	Kind    string   `json:"kind"`             // of the result's items: classify, detect, raw
	Labels  int      `json:"labels,omitempty"` // that may come, without those that have no name
	Inputs  []Tensor `json:"inputs,omitempty"`
	Outputs []Tensor `json:"outputs,omitempty"`
}

// A Tensor is the type and shape of an input or output. A side of -1 is open.
type Tensor struct {
	Type  string `json:"type"` // as hal.DType has it: uint8, float32
	Shape []int  `json:"shape"`
}

// Decode overrides what the model file says about itself; zero values: from the model.
type Decode struct {
	Decoder   string    `json:"decoder,omitempty"` // a kind of results or a decoder's name, where the task's own is not right
	Threshold float32   `json:"threshold,omitempty"`
	Top       int       `json:"top,omitempty"`
	Mean      []float32 `json:"mean,omitempty"`
	Std       []float32 `json:"std,omitempty"`
}
