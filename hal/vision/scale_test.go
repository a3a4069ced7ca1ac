package vision

import (
	"bytes"
	"encoding/binary"
	"image"
	"testing"

	"github.com/covey-edge/covey/hal"
)

func TestScale(t *testing.T) {
	for _, tt := range []struct{ w, h, wantW, wantH, num int }{
		{1280, 720, 0, 0, 8}, {1280, 720, 336, 336, 4}, {1280, 720, 450, 450, 8}, {1920, 1080, 336, 336, 4}, {1920, 1080, 270, 270, 2},
		{1920, 1080, 271, 271, 4}, {4000, 3000, 336, 336, 1}, {100, 100, 336, 336, 8}, {641, 481, 321, 241, 4}, {641, 481, 322, 241, 8},
		{1, 1, 1, 1, 1}, {1280, 720, 336, 0, 8}, {1280, 720, -1, 100, 8},
	} {
		num := Scale(tt.w, tt.h, tt.wantW, tt.wantH)
		if num != tt.num {
			t.Errorf("Scale(%d, %d, %d, %d) = %d, want %d", tt.w, tt.h, tt.wantW, tt.wantH, num, tt.num)
		}
		if num < 8 && (Scaled(tt.w, num) < tt.wantW || Scaled(tt.h, num) < tt.wantH) {
			t.Errorf("%+v: %d×%d is too small", tt, Scaled(tt.w, num), Scaled(tt.h, num))
		}
	}
}

func TestWant(t *testing.T) {
	for _, tt := range []struct {
		o    Options
		w, h int
	}{
		{Options{}, 896, 400}, {Options{Fit: Letterbox}, 896, 400}, {Options{Crop: [4]float32{.25, 0, .75, .25}}, 1792, 1600},
		{Options{Crop: [4]float32{0, 0, 1e-6, 1}}, maxSide, 400},
	} {
		f, err := NewFiller(input(hal.Uint8, 1, 100, 224, 3), tt.o)
		if err != nil {
			t.Fatal(err)
		}
		if w, h := f.Want(); w != tt.w || h != tt.h {
			t.Errorf("%+v: %d×%d, want %d×%d", tt.o, w, h, tt.w, tt.h)
		}
	}
}

// withoutTables is a JPEG as cameras send it.
func withoutTables(b []byte) []byte {
	at := bytes.Index(b, []byte{0xff, 0xc4})
	n := 2 + int(binary.BigEndian.Uint16(b[at+2:]))
	return append(bytes.Clone(b[:at]), b[at+n:]...)
}

// TestUsualTables: a picture without tables is what it is with them.
func TestUsualTables(t *testing.T) {
	b := encode(t, "jpeg", waves(image.NewRGBA(image.Rect(0, 0, 64, 48))))
	var got, want hal.Frame
	if err := DecodePicture(b, &want); err != nil {
		t.Fatal(err)
	}
	if err := DecodePicture(withoutTables(b), &got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(rgb(t, &got), rgb(t, &want)) {
		t.Error("another picture")
	}
}

// layered makes a JPEG say that it is progressive, of that size.
func layered(b []byte, w, h int) []byte {
	b = bytes.Clone(b)
	at := bytes.Index(b, []byte{0xff, 0xc0})
	b[at+1] = 0xc2
	binary.BigEndian.PutUint16(b[at+5:], uint16(h))
	binary.BigEndian.PutUint16(b[at+7:], uint16(w))
	return b
}

func TestInspectJPEG(t *testing.T) {
	plain := encode(t, "jpeg", image.NewGray(image.Rect(0, 0, 30, 20)))
	filled := append([]byte{0xff, 0xd8, 0xff, 0xff, 0xff}, plain[3:]...) // fill bytes before a marker
	for name, tt := range map[string]struct {
		file []byte
		want JPEG
		ok   bool
	}{
		"plain":       {plain, JPEG{30, 20, false, true, 1}, true},
		"progressive": {layered(plain, 4000, 3000), JPEG{4000, 3000, true, true, 1}, true},
		"turned":      {withExif(plain, binary.BigEndian, 6), JPEG{30, 20, false, true, 6}, true},
		"no tables":   {withoutTables(plain), JPEG{30, 20, false, false, 1}, true},
		"filled":      {filled, JPEG{30, 20, false, true, 1}, true},
		"cut":         {plain[:20], JPEG{Orientation: 1}, false},
		"empty":       {nil, JPEG{Orientation: 1}, false},
		"png":         {encode(t, "png", image.NewGray(image.Rect(0, 0, 3, 2))), JPEG{Orientation: 1}, false},
	} {
		if got, ok := InspectJPEG(tt.file); got != tt.want || ok != tt.ok {
			t.Errorf("%s: %+v %v, want %+v %v", name, got, ok, tt.want, tt.ok)
		}
	}
}

// TestProgressiveIsBounded: what would take hundreds of megabytes is refused first.
func TestProgressiveIsBounded(t *testing.T) {
	small := encode(t, "jpeg", image.NewGray(image.Rect(0, 0, 30, 20)))
	err := DecodePicture(layered(small, 4000, 3000), &hal.Frame{})
	if hal.CodeOf(err) != hal.CodeImageSize {
		t.Errorf("12 megapixels: %v", err)
	}
	// The same size in one layer is let in, and fails for the data it lacks.
	at := bytes.Index(small, []byte{0xff, 0xc0})
	large := bytes.Clone(small)
	binary.BigEndian.PutUint16(large[at+5:], 3000)
	binary.BigEndian.PutUint16(large[at+7:], 4000)
	if err := DecodePicture(large, &hal.Frame{}); hal.CodeOf(err) != hal.CodeImage {
		t.Errorf("baseline: %v", err)
	}
}

func FuzzInspectJPEG(f *testing.F) {
	b := encode(f, "jpeg", image.NewGray(image.Rect(0, 0, 9, 7)))
	f.Add(b)
	f.Add(withExif(b, binary.BigEndian, 6))
	f.Add(layered(b, 3, 2))
	f.Fuzz(func(t *testing.T, b []byte) {
		j, ok := InspectJPEG(b)
		if ok && (j.Width < 1 || j.Height < 1) || j.Orientation < 1 || j.Orientation > 8 {
			t.Errorf("%+v %v", j, ok)
		}
		if k, err := kindOf(b); ok && err == nil {
			// Decoders that read the size have to read the same one.
			if c, err := k.config(b); err == nil && (c.Width != j.Width || c.Height != j.Height) {
				t.Errorf("%+v, image/jpeg says %d×%d", j, c.Width, c.Height)
			}
		}
	})
}
