package update

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/blob/crashfs"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// doubler is a session whose output is twice its input.
type doubler struct {
	in, out []byte
	runs    int
	err     error
}

func (d *doubler) Info() hal.Info {
	info := hal.TensorInfo{Name: "x", Type: hal.Uint8, Shape: []int{4}}
	return hal.Info{Inputs: []hal.TensorInfo{info}, Outputs: []hal.TensorInfo{info}}
}
func (d *doubler) Input(int, int) []byte { return d.in }
func (d *doubler) Output(int, int) hal.Tensor {
	return hal.Tensor{Info: &d.Info().Outputs[0], Shape: []int{4}, Data: d.out}
}
func (d *doubler) Run(int) (hal.Timing, error) {
	d.runs++
	for i, b := range d.in {
		d.out[i] = 2 * b
	}
	return hal.Timing{}, d.err
}
func (d *doubler) Reset() error { return nil }
func (d *doubler) Close() error { return nil }

func TestSelfTest(t *testing.T) {
	blobs, err := blob.Open("/b", crashfs.New())
	if err != nil {
		t.Fatal(err)
	}
	put := func(b ...byte) release.File {
		f := release.File{Name: "f", SHA256: fmt.Sprintf("%x", sha256.Sum256(b)), Length: int64(len(b))}
		if err := blobs.Put(context.Background(), wire.Digest(f.SHA256), f.Length, bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
		return f
	}
	in, right, wrong := put(1, 2, 3, 4), put(2, 4, 6, 8), put(2, 4, 6, 9)
	for name, c := range map[string]struct {
		golden release.Golden
		run    error
		old    bool
		want   hal.Code
		runs   int
	}{
		"right":           {release.Golden{Inputs: []release.File{in}, Outputs: []release.File{right}, Label: "cat"}, nil, false, "", 2},
		"within":          {release.Golden{Inputs: []release.File{in}, Outputs: []release.File{wrong}, Tolerance: 1}, nil, false, "", 2},
		"wrong":           {release.Golden{Inputs: []release.File{in}, Outputs: []release.File{wrong}}, nil, false, hal.CodeGolden, 2},
		"proven before":   {release.Golden{Inputs: []release.File{in}, Outputs: []release.File{wrong}}, nil, true, "", 1},
		"other label":     {release.Golden{Inputs: []release.File{in}, Label: "dog"}, nil, false, hal.CodeGolden, 2},
		"short input":     {release.Golden{Inputs: []release.File{put(1)}, Label: "cat"}, nil, false, hal.CodeShape, 1},
		"long input":      {release.Golden{Inputs: []release.File{put(1, 2, 3, 4, 5)}, Label: "cat"}, nil, false, hal.CodeShape, 1},
		"too many inputs": {release.Golden{Inputs: []release.File{in, in}, Label: "cat"}, nil, false, hal.CodeShape, 1},
		"does not run":    {release.Golden{}, &hal.Error{Code: hal.CodeCrash, Text: "SIGSEGV"}, false, hal.CodeCrash, 1},
	} {
		d := &doubler{in: make([]byte, 4), out: make([]byte, 4), err: c.run}
		f := Files{Manifest: &release.Manifest{Golden: []release.Golden{c.golden}}, Trial: !c.old, blobs: blobs}
		err := SelfTest(d, f, func() (string, error) { return "cat", nil })
		if hal.CodeOf(err) != c.want || (err == nil) != (c.want == "") || d.runs != c.runs {
			t.Errorf("%s: got %v after %d runs, want %q after %d", name, err, d.runs, c.want, c.runs)
		}
	}

	// A variant has a tolerance of its own, for the self-test and for the ladder.
	f := Files{Manifest: &release.Manifest{Golden: []release.Golden{{Inputs: []release.File{in}, Outputs: []release.File{wrong}, Tolerance: 0.1}}}, Trial: true, blobs: blobs}
	for tolerance, want := range map[float64]hal.Code{0: hal.CodeGolden, 1: ""} {
		f.Variant.Tolerance = tolerance
		if err := SelfTest(&doubler{in: make([]byte, 4), out: make([]byte, 4)}, f, nil); hal.CodeOf(err) != want {
			t.Errorf("tolerance %v: %v, want %q", tolerance, err, want)
		}
		if s, err := f.Samples(); err != nil || s[0].Tolerance != max(tolerance, 0.1) {
			t.Errorf("tolerance %v: samples %+v, %v", tolerance, s, err)
		}
	}
}
