package release

import (
	"fmt"
	"slices"
	"strings"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// A Board is what decides which variant fits. A board knows it of itself, a
// controller from the board's hello.
type Board struct {
	Arch    string             // GOARCH
	RAM     int64              // bytes; 0: not known, everything fits
	Devices []wire.HelloDevice // what the board's engines can run on
	// Runtimes are the engines' libraries, by engine: "tflite 2.17.1". Of one that is
	// not known nothing is asked.
	Runtimes map[string]string
}

// BoardOf is the board that said hello.
func BoardOf(h wire.Hello) Board {
	return Board{Arch: h.Arch, RAM: h.RAM, Devices: h.Accelerators, Runtimes: h.Runtimes}
}

// A Refusal says why a variant does not fit a board.
type Refusal struct {
	File string // its name
	Code hal.Code
	Text string
}

// Pick returns the first variant that fits. The error, when none does, has the
// code of the last refusal and names them all. What was refused before the one
// that fits is returned in any case.
func Pick(m *Manifest, b Board) (Variant, []Refusal, error) {
	var refusals []Refusal
	for _, v := range m.Variants {
		r := b.refuse(v)
		if r == nil {
			return v, refusals, nil
		}
		refusals = append(refusals, *r)
	}
	if len(refusals) == 0 {
		return Variant{}, nil, coded(hal.CodeManifest, "the release has no model")
	}
	var texts []string
	for _, r := range refusals {
		texts = append(texts, r.Text)
	}
	return Variant{}, refusals, coded(refusals[len(refusals)-1].Code, "%s", strings.Join(texts, "; "))
}

// refuse says why v does not fit, or nil.
func (b Board) refuse(v Variant) *Refusal {
	no := func(code hal.Code, format string, args ...any) *Refusal {
		return &Refusal{File: v.File.Name, Code: code, Text: v.File.Name + ": " + fmt.Sprintf(format, args...)}
	}
	if v.Arch != "" && v.Arch != b.Arch {
		return no(hal.CodeEngine, "model compiled for %s, this board is %s", v.Arch, b.Arch)
	}
	engine, accel := false, v.Accelerator == ""
	for _, d := range b.Devices {
		if d.Engine == v.Engine {
			engine = true
			accel = accel || d.Accelerator == v.Accelerator
		}
	}
	switch {
	case !accel:
		return no(hal.CodeAccel, "model compiled for %s, none found: plug one in, or add a variant for cpu", v.Accelerator)
	case !engine:
		return no(hal.CodeEngine, "no engine for %s on this board: see covey-agent doctor", v.Engine)
	case OlderRuntime(b.Runtimes[v.Engine], v.MinRuntime):
		return no(hal.CodeRuntime, "needs the library of %s from version %s on, this board has %s: update covey-agent's runners, or add a variant for older ones",
			v.Engine, v.MinRuntime, b.Runtimes[v.Engine])
	case b.RAM > 0 && v.MinRAM > b.RAM:
		return no(hal.CodeMemory, "needs a board with %d MB of memory, this has %d", v.MinRAM>>20, b.RAM>>20)
	}
	return nil
}

// OlderRuntime says whether a runtime, "tflite 2.17.1", is older than the version asked for.
// One that names no version is not.
func OlderRuntime(runtime, want string) bool {
	version := runtime[strings.LastIndexByte(runtime, ' ')+1:]
	end := strings.IndexFunc(version, func(r rune) bool { return r != '.' && (r < '0' || r > '9') }) // 2.17.1-rc0
	if end >= 0 {
		version = version[:end]
	}
	have, need := numbers(strings.TrimRight(version, ".")), numbers(want)
	for len(have) > 0 && len(have) < len(need) {
		have = append(have, 0)
	}
	return have != nil && slices.Compare(have, need) < 0
}
