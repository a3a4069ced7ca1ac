package release

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// Limits on the parts of a manifest that no other limit holds.
const (
	maxText     = 8 << 10 // of license and notes, bytes
	maxName     = 255     // of a file's name, bytes
	maxVersion  = 64
	maxGolden   = 32
	maxChannels = 16
	maxTop      = 1000
	maxLineage  = 256 // of each of its texts, bytes
	maxOps      = 1000
	maxLabels   = 10_000
	maxTensors  = 64
	maxDims     = 8
)

// Validate checks everything that can be checked without the files.
func (m *Manifest) Validate() error {
	switch {
	case m.V != 1:
		return coded(hal.CodeManifest, "manifest has v %d: this program reads v 1", m.V)
	case !wire.ValidID(m.Name):
		return coded(hal.CodeManifest, "name %.60q: write 1 to 32 of a-z, 0-9 and -", m.Name)
	case !validVersion(m.Version):
		return coded(hal.CodeManifest, "version %.80q: write it like 1.2.0", m.Version)
	case m.Task != "" && !slices.Contains(wire.Kinds, m.Task):
		return coded(hal.CodeManifest, "task %.60q: classify, detect, raw, or nothing for auto", m.Task)
	case len(m.License) > maxText || len(m.Notes) > maxText || len(m.Author) > maxText:
		return coded(hal.CodeManifest, "license, notes or author is longer than %d bytes", maxText)
	}
	if err := m.Lineage.validate(); err != nil {
		return err
	}
	if m.Config != nil {
		return m.validateConfig()
	}
	if len(m.Variants) == 0 {
		return coded(hal.CodeManifest, "variants is empty: name at least one model file, or a config")
	}
	for i := range m.Variants {
		if err := m.Variants[i].validate(); err != nil {
			return err
		}
		if err := m.validateSibling(m.Variants[i]); err != nil {
			return err
		}
	}
	if err := m.validateGolden(); err != nil {
		return err
	}
	if err := m.Decode.validate(); err != nil {
		return err
	}
	if err := m.Result.validate(); err != nil {
		return err
	}
	return m.validateFiles()
}

// validateConfig is for a release of configuration: nothing in it may look like a
// model's, which no board would heed.
func (m *Manifest) validateConfig() error {
	switch {
	case len(m.Variants) > 0 || len(m.Golden) > 0 || m.Labels != nil || m.Result != nil || m.Task != "" || !reflect.ValueOf(m.Decode).IsZero():
		return coded(hal.CodeManifest, "a release of configuration has no model: take out task, labels, variants, golden, decode and result, or config")
	case m.Config.Length == 0 || m.Config.Length > MaxConfig:
		return coded(hal.CodeLength, "config %.80q has %d bytes: 1 to %d are read", m.Config.Name, m.Config.Length, MaxConfig)
	}
	return m.validateFiles()
}

func (v *Variant) validate() error {
	switch {
	case !wire.ValidID(v.Engine):
		return coded(hal.CodeManifest, "engine %.60q of %.80q: write tflite or onnx", v.Engine, v.File.Name)
	case v.Accelerator != "" && !wire.ValidID(v.Accelerator):
		return coded(hal.CodeManifest, "accelerator %.60q of %.80q: leave it out unless the file is compiled for one", v.Accelerator, v.File.Name)
	case v.Arch != "" && !wire.ValidID(v.Arch):
		return coded(hal.CodeManifest, "arch %.60q of %.80q: write amd64, arm64, or nothing for any", v.Arch, v.File.Name)
	case v.MinRAM < 0 || v.Memory < 0:
		return coded(hal.CodeManifest, "min_ram or memory of %.80q is below 0", v.File.Name)
	case v.Quantisation != "" && !slices.Contains(Quantisations, v.Quantisation):
		return coded(hal.CodeManifest, "quantisation %.60q of %.80q: one of %s, or nothing", v.Quantisation, v.File.Name, strings.Join(Quantisations, ", "))
	case v.MinRuntime != "" && numbers(v.MinRuntime) == nil:
		return coded(hal.CodeManifest, "min_runtime %.60q of %.80q: write it like 2.17 or 1.24.1", v.MinRuntime, v.File.Name)
	case v.Ops < 0 || v.Ops > maxOps:
		return coded(hal.CodeManifest, "ops %d of %.80q is not within 0 to %d", v.Ops, v.File.Name, maxOps)
	case !atLeast0(v.Tolerance) || !atLeast0(v.LatencyMS):
		return coded(hal.CodeManifest, "tolerance %v or latency_ms %v of %.80q is not 0 or more", v.Tolerance, v.LatencyMS, v.File.Name)
	case v.File.Length == 0:
		return coded(hal.CodeModelEmpty, "model file %.80q is 0 bytes", v.File.Name)
	}
	return nil
}

// validateSibling wants a file that other accelerators can run beside one that is
// compiled for an Edge TPU.
func (m *Manifest) validateSibling(v Variant) error {
	s := m.SiblingOf(v)
	switch {
	case v.Sibling == "" && v.Accelerator == string(hal.EdgeTPU):
		return coded(hal.CodeManifest, "%.80q runs on an Edge TPU alone: put the file it was compiled from (without _edgetpu) into the release and name it as its sibling", v.File.Name)
	case v.Sibling == "":
		return nil
	case s == nil:
		return coded(hal.CodeManifest, "sibling %.80q of %.80q is no variant of this release for the same engine", v.Sibling, v.File.Name)
	case s.Accelerator != "" || s.Sibling != "" || s.Arch != "" && s.Arch != v.Arch:
		return coded(hal.CodeManifest, "sibling %.80q of %.80q does not run everywhere itself: name the file for any accelerator", v.Sibling, v.File.Name)
	}
	return nil
}

func (m *Manifest) validateGolden() error {
	if len(m.Golden) > maxGolden {
		return coded(hal.CodeManifest, "%d golden samples: the limit is %d", len(m.Golden), maxGolden)
	}
	for i, g := range m.Golden {
		if len(g.Inputs) == 0 || len(g.Outputs) == 0 && g.Label == "" {
			return coded(hal.CodeManifest, "golden sample %d needs inputs, and outputs or a label", i)
		}
		if !atLeast0(g.Tolerance) {
			return coded(hal.CodeManifest, "tolerance %v of golden sample %d is not 0 or more", g.Tolerance, i)
		}
		if len(g.Label) > maxName {
			return coded(hal.CodeManifest, "label of golden sample %d is longer than %d bytes", i, maxName)
		}
	}
	return nil
}

func (d *Decode) validate() error {
	switch {
	case d.Decoder != "" && !wire.ValidID(d.Decoder):
		return coded(hal.CodeManifest, "decoder %.60q: a kind of results or a decoder's name, as covey model decoders lists them, or nothing for the task's own", d.Decoder)
	case !(d.Threshold >= 0 && d.Threshold <= 1):
		return coded(hal.CodeManifest, "threshold %v is not within 0 to 1", d.Threshold)
	case d.Top < 0 || d.Top > maxTop:
		return coded(hal.CodeManifest, "top %d is not within 0 to %d", d.Top, maxTop)
	case len(d.Mean) != len(d.Std) || len(d.Mean) > maxChannels:
		return coded(hal.CodeManifest, "%d values of mean and %d of std: write one of each for every channel", len(d.Mean), len(d.Std))
	}
	for i := range d.Std {
		if !finite(d.Mean[i]) || !finite(d.Std[i]) || d.Std[i] <= 0 {
			return coded(hal.CodeManifest, "mean %v and std %v of channel %d: std must be above 0", d.Mean[i], d.Std[i], i)
		}
	}
	return nil
}

func (l Lineage) validate() error {
	for _, s := range []string{l.Parent, l.Dataset, l.Commit} {
		if len(s) > maxLineage {
			return coded(hal.CodeManifest, "parent, dataset or commit of the lineage is longer than %d bytes", maxLineage)
		}
	}
	return nil
}

func (r *Result) validate() error {
	if r == nil {
		return nil
	}
	switch {
	case !slices.Contains(wire.Kinds, r.Kind):
		return coded(hal.CodeManifest, "result of kind %.60q: one of %s", r.Kind, strings.Join(wire.Kinds, ", "))
	case r.Labels < 0 || r.Labels > maxLabels:
		return coded(hal.CodeManifest, "result of %d labels: 0 to %d are known", r.Labels, maxLabels)
	case len(r.Inputs) > maxTensors || len(r.Outputs) > maxTensors:
		return coded(hal.CodeManifest, "result of %d inputs and %d outputs: at most %d are known", len(r.Inputs), len(r.Outputs), maxTensors)
	}
	for _, t := range slices.Concat(r.Inputs, r.Outputs) {
		if !wire.ValidID(t.Type) || t.Shape == nil || len(t.Shape) > maxDims || slices.ContainsFunc(t.Shape, func(n int) bool { return n < -1 || n > MaxFile }) {
			return coded(hal.CodeManifest, "tensor of result %.60q %.80s: write a type such as uint8, and at most %d sides, -1 for one that is open", t.Type, fmt.Sprint(t.Shape), maxDims)
		}
	}
	return nil
}

// numbers are those of a version, "1.24.1"; nil when it is not written like that.
func numbers(version string) []int {
	parts := strings.Split(version, ".")
	if len(parts) > 4 {
		return nil
	}
	list := make([]int, len(parts))
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil || n < 0 || len(p) > 6 || p[0] == '+' || p[0] == '-' || len(p) > 1 && p[0] == '0' {
			return nil
		}
		list[i] = n
	}
	return list
}

func atLeast0(f float64) bool { return f >= 0 && !math.IsInf(f, 0) }

func finite(f float32) bool { return !math.IsNaN(float64(f)) && !math.IsInf(float64(f), 0) }

// validateFiles checks each file by itself and all against each other: a name
// means one content, a hash means one length and one list of blocks.
func (m *Manifest) validateFiles() error {
	byName, byHash := map[string]*File{}, map[string]*File{}
	for _, f := range m.files() {
		if err := f.validate(); err != nil {
			return err
		}
		if o := byName[f.Name]; o != nil && o.SHA256 != f.SHA256 {
			return coded(hal.CodeManifest, "file %.80q is named with two hashes", f.Name)
		}
		if o := byHash[f.SHA256]; o != nil && (o.Length != f.Length || string(o.Blocks) != string(f.Blocks)) {
			return coded(hal.CodeManifest, "files %.80q and %.80q have one hash and differ in length or blocks", o.Name, f.Name)
		}
		byName[f.Name], byHash[f.SHA256] = f, f
	}
	if l := m.Labels; l != nil && l.Length > MaxLabels {
		return coded(hal.CodeLength, "labels %.80q have %d bytes: the limit is %d", l.Name, l.Length, MaxLabels)
	}
	for _, g := range m.Golden {
		for _, f := range slices.Concat(g.Inputs, g.Outputs) {
			if f.Length > MaxSample {
				return coded(hal.CodeLength, "golden file %.80q has %d bytes: the limit is %d", f.Name, f.Length, MaxSample)
			}
		}
	}
	if len(byHash) > MaxFiles {
		return coded(hal.CodeManifest, "%d files: the limit is %d", len(byHash), MaxFiles)
	}
	return nil
}

func (f *File) validate() error {
	if !ValidPath(f.Name) {
		return coded(hal.CodePath, "illegal file name %.80q: write it relative to the release's folder, without ..", f.Name)
	}
	if !wire.ValidDigest(f.SHA256) {
		return coded(hal.CodeManifest, "sha256 %.80q of %.80q is not 64 digits of lower-case hex", f.SHA256, f.Name)
	}
	if f.Length < 0 || f.Length > MaxFile {
		return coded(hal.CodeLength, "file %.80q has %d bytes: the limit is %d", f.Name, f.Length, MaxFile)
	}
	blocks := int((f.Length + wire.BlockSize - 1) / wire.BlockSize)
	if len(f.Blocks) != blocks*sha256.Size {
		return coded(hal.CodeManifest, "file %.80q of %d bytes has %d bytes of block hashes, not %d", f.Name, f.Length, len(f.Blocks), blocks*sha256.Size)
	}
	return nil
}

// ValidPath says whether name may name a file of a release: relative, with
// slashes, inside the folder, printable, and legal on every system.
func ValidPath(name string) bool {
	if len(name) > maxName || name == "." || name == FileName || !utf8.ValidString(name) || !fs.ValidPath(name) {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || strings.ContainsRune(`\:*?"<>|`, r) })
}

// validVersion is semantic versioning: three numbers, then what may follow.
func validVersion(v string) bool {
	if len(v) > maxVersion {
		return false
	}
	core, build, hasBuild := strings.Cut(v, "+")
	core, pre, hasPre := strings.Cut(core, "-")
	numbers := strings.Split(core, ".")
	if len(numbers) != 3 || hasBuild && !dotted(build) || hasPre && !dotted(pre) {
		return false
	}
	for _, n := range numbers {
		if n == "" || strings.Trim(n, "0123456789") != "" || len(n) > 1 && n[0] == '0' {
			return false
		}
	}
	return true
}

// dotted says whether s is identifiers with dots between them.
func dotted(s string) bool {
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || strings.Trim(part, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-") != "" {
			return false
		}
	}
	return true
}

// ValidRuntime says whether a version may be a variant's MinRuntime.
func ValidRuntime(version string) bool { return numbers(version) != nil }
