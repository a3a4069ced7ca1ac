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
)

// A Manifest describes a release. The canonical form is what Canonical writes.
type Manifest struct {
	V        int       `json:"v"`                // 1
	Name     string    `json:"name"`             // [a-z0-9-]{1,32}
	Version  string    `json:"version"`          // semver
	Task     string    `json:"task"`             // classify, detect, raw; "" for auto
	Labels   *File     `json:"labels,omitempty"` // text, a label a line; absent: from the model's metadata
	Variants []Variant `json:"variants"`         // at least one, best first
	Golden   []Golden  `json:"golden,omitempty"`
	Decode   Decode    `json:"decode,omitzero"`
	License  string    `json:"license,omitempty"`
	Notes    string    `json:"notes,omitempty"`
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
	Engine      string `json:"engine"`                // tflite
	Accelerator string `json:"accelerator,omitempty"` // "" any; edgetpu: compiled for it
	Arch        string `json:"arch,omitempty"`        // GOARCH; "" any
	MinRAM      int64  `json:"min_ram,omitempty"`     // bytes
	// Sibling is the name of another variant's file: the same model for any
	// accelerator. A file that is compiled for an Edge TPU needs one, to be held
	// against and to fall back to; a board pins both.
	Sibling string `json:"sibling,omitempty"`
	File    File   `json:"file"`
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

// Decode overrides what the model file says about itself; zero values: from the model.
type Decode struct {
	Threshold float32   `json:"threshold,omitempty"`
	Top       int       `json:"top,omitempty"`
	Mean      []float32 `json:"mean,omitempty"`
	Std       []float32 `json:"std,omitempty"`
}
