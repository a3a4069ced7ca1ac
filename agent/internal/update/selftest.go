package update

import (
	"fmt"
	"math"

	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/hal"
)

// SelfTest runs a session once on zeros, and with f.Trial on every golden sample.
// label (may be nil) is the label that comes first for the outputs of buffer 0.
// It has the session to itself. Errors: E_SHAPE, E_GOLDEN, and those of Run.
func SelfTest(s hal.Session, f Files, label func() (string, error)) error {
	info := s.Info()
	for i := range info.Inputs {
		clear(s.Input(0, i))
	}
	if _, err := s.Run(0); err != nil {
		return fmt.Errorf("run on zeros: %w", err)
	}
	if !f.Trial {
		return nil
	}
	for i, g := range f.Manifest.Golden {
		if err := golden(s, f, g, label); err != nil {
			return fmt.Errorf("golden sample %d: %w", i, err)
		}
	}
	return s.Reset()
}

// Samples are the golden samples for whoever chooses an accelerator: with outputs,
// where there are any, as close as the release wants them.
func (f Files) Samples() ([]hal.Sample, error) {
	var list []hal.Sample
	for _, g := range f.Manifest.Golden {
		s := hal.Sample{Tolerance: f.Variant.ToleranceOf(g)}
		if len(g.Outputs) > 0 && s.Tolerance == 0 {
			s.Tolerance = math.SmallestNonzeroFloat64 // exactly, and not what the chooser thinks
		}
		for to, files := range map[*[][]byte][]release.File{&s.Inputs: g.Inputs, &s.Outputs: g.Outputs} {
			for _, file := range files {
				b, err := f.Read(file)
				if err != nil {
					return nil, err
				}
				*to = append(*to, b)
			}
		}
		list = append(list, s)
	}
	return list, nil
}

func golden(s hal.Session, f Files, g release.Golden, label func() (string, error)) error {
	info := s.Info()
	if len(g.Inputs) != len(info.Inputs) || len(g.Outputs) > len(info.Outputs) {
		return &hal.Error{Code: hal.CodeShape, Text: fmt.Sprintf("%d inputs and %d outputs for a model of %d and %d",
			len(g.Inputs), len(g.Outputs), len(info.Inputs), len(info.Outputs))}
	}
	if err := s.Reset(); err != nil {
		return err
	}
	for i, file := range g.Inputs {
		b, err := f.Read(file)
		if err != nil {
			return err
		}
		if in := s.Input(0, i); copy(in, b) != len(in) || len(b) != len(in) {
			return &hal.Error{Code: hal.CodeShape, Text: fmt.Sprintf("input %d wants %d bytes, %s has %d", i, len(in), file.Name, len(b))}
		}
	}
	if _, err := s.Run(0); err != nil {
		return err
	}
	for i, file := range g.Outputs {
		want, err := f.Read(file)
		if err != nil {
			return err
		}
		if err := release.Compare(i, s.Output(0, i), want, f.Variant.ToleranceOf(g)); err != nil {
			return err
		}
	}
	if g.Label == "" || label == nil {
		return nil
	}
	got, err := label()
	if err != nil {
		return err
	}
	return release.CompareLabel(got, g.Label)
}
