package answers

import (
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/modelfile"
	"github.com/covey-edge/covey/hal/task"
	"github.com/covey-edge/covey/hal/vision"
)

type pictures struct {
	MobileNet struct{ Class, Score int } // the score is of 255
	SSD       []thing
	DeepLab   struct{ Pixels map[int]int } // of each class, of 257×257
}

type thing struct {
	Class int
	Score float32
	Box   [4]float32 // y0, x0, y1, x1, as the model has it
}

// show decodes a picture and fills it into a session's input.
func show(t *testing.T, s hal.Session, path string) {
	t.Helper()
	var f hal.Frame
	if err := vision.DecodePicture(read(t, filepath.Join(haltest.Models(t), path)), &f); err != nil {
		t.Fatal(err)
	}
	filler, err := vision.NewFiller(s.Info().Inputs[0], vision.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := filler.Fill(s.Input(0, 0), &f); err != nil {
		t.Fatal(err)
	}
}

// decode reads a session's outputs with the decoder that its model file calls for.
func decode(t *testing.T, s hal.Session, path, labels string, o task.Options) task.Result {
	t.Helper()
	m, err := modelfile.Parse(read(t, filepath.Join(haltest.Models(t), path)))
	if err != nil {
		t.Fatal(err)
	}
	names, err := task.ParseLabels(read(t, filepath.Join(haltest.Models(t), labels)))
	if err != nil {
		t.Fatal(err)
	}
	c, err := task.Choose(m, s.Info(), names, o)
	if err != nil {
		t.Fatal(err)
	}
	var r task.Result
	if err := c.Decoder.Decode(s, 0, &r); err != nil {
		t.Fatalf("%s: %v", c.Reason(), err)
	}
	return r
}

func TestClassify(t *testing.T) {
	const model = "label_image/mobilenet_quant_v1_224.tflite"
	want := expected[pictures](t, "pictures.json").MobileNet
	for _, a := range accelerators {
		s := open(t, model, hal.Options{Accelerator: a})
		show(t, s, "label_image/peacock.png")
		run(t, s)
		best := decode(t, s, model, "label_image/labels.txt", task.Options{}).Items[0]
		t.Logf("%s: %s %.3f", a, best.Label, best.Score)
		if best.ID != want.Class || best.Label != "peacock" || math.Abs(float64(best.Score)-float64(want.Score)/255) > 0.02 {
			t.Errorf("%s: %+v, want class %d with %d of 255", a, best, want.Class, want.Score)
		}
	}
}

// TestDetect: every thing that is sure has to be found where it is, and no other. What
// the model is not sure of moves with the last bit of a pixel.
func TestDetect(t *testing.T) {
	const model = "ssd/detect.tflite"
	const sure = 0.65
	want := expected[pictures](t, "pictures.json").SSD
	for _, a := range accelerators {
		s := open(t, model, hal.Options{Accelerator: a})
		show(t, s, "ssd/example.jpg")
		run(t, s)
		got := decode(t, s, model, "ssd/labelmap.txt", task.Options{}).Items
		for _, g := range got {
			if g.Score >= sure && !slices.ContainsFunc(want, func(w thing) bool { return same(g, w) }) {
				t.Errorf("%s: found %+v, which is not there", a, g)
			}
		}
		for _, w := range want {
			if w.Score >= sure && !slices.ContainsFunc(got, func(g task.Item) bool { return same(g, w) }) {
				t.Errorf("%s: did not find %+v; found %+v", a, w, got)
			}
		}
		if len(got) == 0 || got[0].Label != "person" {
			t.Errorf("%s: %+v, want a person first", a, got)
		}
	}
}

// same: of one class, about as sure, and the boxes cover each other.
func same(g task.Item, w thing) bool {
	box := [4]float32{w.Box[1], w.Box[0], w.Box[3], w.Box[2]}
	for i := range box {
		box[i] = min(1, max(0, box[i]))
	}
	return g.ID == w.Class && math.Abs(float64(g.Score-w.Score)) < 0.06 && overlap(g.Box, box) > 0.9
}

// overlap is the intersection over the union.
func overlap(a, b [4]float32) float32 {
	area := func(r [4]float32) float32 { return max(0, r[2]-r[0]) * max(0, r[3]-r[1]) }
	both := area([4]float32{max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])})
	return both / (area(a) + area(b) - both)
}

// TestSegment counts the pixels of each class.
func TestSegment(t *testing.T) {
	const classes, pixels = 21, 257 * 257
	want := expected[pictures](t, "pictures.json").DeepLab.Pixels
	for _, a := range accelerators {
		s := open(t, "segment/deeplabv3_257_mv_gpu.tflite", hal.Options{Accelerator: a})
		show(t, s, "segment/example.jpg")
		run(t, s)
		got := map[int]int{}
		for scores := range slices.Chunk(floats(s.Output(0, 0).Data), classes) {
			got[slices.Index(scores, slices.Max(scores))]++
		}
		t.Logf("%s: %v, want %v", a, got, want)
		wrong := 0
		for class := range classes {
			wrong += max(0, got[class]-want[class])
		}
		if len(want) < 3 || wrong > pixels/100 {
			t.Errorf("%s: %v, want %v: %d pixels are of another class", a, got, want, wrong)
		}
	}
}
