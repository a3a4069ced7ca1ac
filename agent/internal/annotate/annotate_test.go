package annotate

import (
	"bytes"
	"image"
	"image/color"
	"image/jpeg"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/vision"
)

func grey(w, h int) *hal.Frame {
	return &hal.Frame{Format: hal.FormatGray, Width: w, Height: h, Planes: [3][]byte{bytes.Repeat([]byte{90}, w*h)}, Strides: [3]int{w}}
}

func annotated(t testing.TB, f *hal.Frame, items ...wire.Item) image.Image {
	t.Helper()
	var b bytes.Buffer
	if err := JPEG(&b, f, &wire.Result{Items: items}); err != nil {
		t.Fatal(err)
	}
	if name := os.Getenv("ANNOTATE_OUT"); name != "" { // to look at
		if err := os.WriteFile(filepath.Join(name, strings.ReplaceAll(t.Name(), "/", "-")+".jpg"), b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m, err := jpeg.Decode(&b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func near(a, b color.Color) bool {
	ar, ag, ab, _ := a.RGBA()
	br, bg, bb, _ := b.RGBA()
	for _, d := range []int{int(ar) - int(br), int(ag) - int(bg), int(ab) - int(bb)} {
		if d > 40<<8 || d < -40<<8 {
			return false
		}
	}
	return true
}

func TestBox(t *testing.T) {
	it := wire.Item{Label: "cat", ID: 2, Score: .87, Box: &[4]float32{.25, .25, .75, .75}}
	m := annotated(t, grey(400, 400), it)
	if m.Bounds() != image.Rect(0, 0, 400, 400) {
		t.Fatal(m.Bounds())
	}
	for _, p := range []image.Point{{101, 200}, {298, 200}, {200, 298}, {250, 101}} {
		if !near(m.At(p.X, p.Y), colourOf(2)) {
			t.Errorf("%v is %v, not the box", p, m.At(p.X, p.Y))
		}
	}
	for _, p := range []image.Point{{200, 200}, {50, 50}, {350, 380}} {
		if !near(m.At(p.X, p.Y), color.Gray{90}) {
			t.Errorf("%v is %v, not the picture", p, m.At(p.X, p.Y))
		}
	}
	dark := 0
	for x := 100; x < 180; x++ {
		for y := 78; y < 100; y++ {
			if near(m.At(x, y), color.White) || near(m.At(x, y), color.Black) {
				dark++
			}
		}
	}
	if dark < 50 {
		t.Errorf("%d dots of letters", dark)
	}
}

// TestAnything: odd sizes, boxes and labels are drawn or left out, never a panic.
func TestAnything(t *testing.T) {
	long := strings.Repeat("a very long label ", 30)
	for _, size := range [][2]int{{1, 1}, {1, 900}, {900, 1}, {32, 32}} {
		for _, box := range [][4]float32{{0, 0, 1, 1}, {1, 1, 0, 0}, {.5, .5, .5, .5}, {-9, -9, 9, 9}, {.99, 0, 1, .01}, {2, 2, 3, 3}} {
			annotated(t, grey(size[0], size[1]), wire.Item{Label: long, ID: -5, Score: .5, Box: &box}, wire.Item{Label: "", Score: 7}, wire.Item{Label: "猫 кот", Score: -1})
		}
	}
	if err := JPEG(new(bytes.Buffer), &hal.Frame{Width: 2, Height: 2}, &wire.Result{}); err == nil {
		t.Error("a frame without a format was drawn")
	}
}

func TestFormats(t *testing.T) {
	for format := hal.FormatGray; format <= hal.FormatYUV440; format++ {
		f := &hal.Frame{Format: format, Width: 33, Height: 17}
		for i := range f.Planes {
			f.Strides[i] = 33 * 4
			f.Planes[i] = bytes.Repeat([]byte{128}, 33*4*17)
		}
		if m := annotated(t, f); !near(m.At(16, 8), color.Gray{128}) {
			t.Errorf("format %d: %v", format, m.At(16, 8))
		}
	}
}

func TestRealPictures(t *testing.T) {
	dir := os.Getenv("COVEY_MODELS")
	if dir == "" {
		t.Fatal("COVEY_MODELS is not set: run ./scripts/setup, then . scripts/env")
	}
	box := func(x0, y0, x1, y1 float32) *[4]float32 { return &[4]float32{x0, y0, x1, y1} }
	for name, items := range map[string][]wire.Item{
		"ssd/example.jpg": {
			{Label: "person", ID: 0, Score: .93, Box: box(.05, .1, .3, .9)}, {Label: "bicycle", ID: 1, Score: .71, Box: box(.25, .4, .6, .95)},
			{Label: "dog", ID: 17, Score: .64, Box: box(.7, 0, .999, .5)}, {Label: "traffic light", ID: 9, Score: .51, Box: box(.9, .6, 1, .8)},
		},
		"label_image/peacock.png": {{Label: "peacock", ID: 85, Score: .99}, {Label: "quail", ID: 86, Score: .31}, {Label: "vase", ID: 883, Score: .1}},
	} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			var f hal.Frame
			if err := vision.DecodePicture(b, &f); err != nil {
				t.Fatal(err)
			}
			annotated(t, &f, items...)
		})
	}
}
