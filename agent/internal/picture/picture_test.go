package picture

import (
	"bytes"
	"fmt"
	"image/jpeg"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// stripes is a frame of black and white columns.
func stripes(w, h int, at time.Time) *hal.Frame {
	f := &hal.Frame{Seq: 7, Captured: at, Format: hal.FormatRGB, Width: w, Height: h, Planes: [3][]byte{make([]byte, 3*w*h)}, Strides: [3]int{3 * w}}
	for i := range f.Planes[0] {
		if i/3%w/2%2 == 1 {
			f.Planes[0][i] = 255
		}
	}
	return f
}

// Who may see what: every class, every audience, both ways that a picture is made.
func TestWhoMaySee(t *testing.T) {
	for class, side := range map[Class]int{"": 0, Numbers: 0, Thumbnails: 320, Frames: 1280} {
		for to := Page; to <= Fleet; to++ {
			s := NewStudio(Policy{Class: class, To: to})
			look := s.Look(stripes(1920, 1080, noon))
			if (look == nil) != (side == 0) {
				t.Fatalf("%s: a look %v", class, look)
			}
			if look == nil {
				continue
			}
			if look.Width != side || look.Height != side*1080/1920 {
				t.Errorf("%s: %d×%d", class, look.Width, look.Height)
			}
			for _, make := range []func() (*Picture, error){
				func() (*Picture, error) { return s.Print("e-1", look, &wire.Result{}) },
				func() (*Picture, error) { return s.Preview(look, &wire.Result{}) },
			} {
				p, err := make()
				if err != nil {
					t.Fatal(err)
				}
				for who := Page; who <= Fleet; who++ {
					b, err := p.Show(who)
					if ok := who <= to; ok != (err == nil) || ok != (len(b) > 0) || !ok && hal.CodeOf(err) != hal.CodePrivacy {
						t.Errorf("%s for %s, shown to %s: %d bytes, %v", class, to, who, len(b), err)
					}
				}
			}
			// What was loosened and is not any more makes no picture of what was seen meanwhile.
			s.SetPolicy(Policy{})
			if p, err := s.Print("e-2", look, &wire.Result{}); hal.CodeOf(err) != hal.CodePrivacy {
				t.Errorf("after the policy: %v, %v", p, err)
			}
		}
	}
}

func TestStrictest(t *testing.T) {
	for _, tt := range []struct{ a, b, want Policy }{
		{Policy{Class: Frames, To: Fleet}, Policy{Class: Thumbnails, To: Home}, Policy{Class: Thumbnails, To: Home}},
		{Policy{Class: Frames, To: Page}, Policy{Class: Thumbnails, To: Fleet}, Policy{Class: Thumbnails, To: Page}},
		{Policy{Class: Thumbnails}, Policy{}, Policy{}},
		{Policy{Class: Frames, Blur: []string{"face"}}, Policy{Class: Frames, Blur: []string{"plate"}}, Policy{Class: Frames, Blur: []string{"face", "plate"}}},
	} {
		if got := tt.a.Strictest(tt.b); got.Side() != tt.want.Side() || got.To != tt.want.To || fmt.Sprint(got.Blur) != fmt.Sprint(tt.want.Blur) {
			t.Errorf("%+v and %+v: %+v", tt.a, tt.b, got)
		}
		if got := tt.b.Strictest(tt.a); got.Side() != tt.want.Side() || got.To != tt.want.To {
			t.Errorf("%+v and %+v: %+v", tt.b, tt.a, got)
		}
	}
}

// Of a face nothing is left that tells one from another, and what is beside it stays.
func TestBlur(t *testing.T) {
	s := NewStudio(Policy{Class: Thumbnails, Blur: []string{"face"}})
	look := s.Look(stripes(200, 100, noon))
	r := &wire.Result{Items: []wire.Item{
		{Label: "face", Box: &[4]float32{0.2, 0.2, 0.4, 0.6}}, {Label: "cat", Box: &[4]float32{0.7, 0.2, 0.9, 0.6}}, {Label: "face"},
		{Label: "face", Box: &[4]float32{0.95, 0.9, 1.5, 2}},
	}}
	p, err := s.Preview(look, r)
	if err != nil {
		t.Fatal(err)
	}
	img, err := jpeg.Decode(bytes.NewReader(p.jpeg))
	if err != nil {
		t.Fatal(err)
	}
	contrast := func(x0, x1, y int) uint32 {
		least, most := uint32(0xffff), uint32(0)
		for x := x0; x < x1; x++ {
			v, _, _, _ := img.At(x, y).RGBA()
			least, most = min(least, v), max(most, v)
		}
		return most - least
	}
	if c := contrast(42, 78, 40); c > 0x5000 {
		t.Errorf("a face has a contrast of %#x", c)
	}
	if c := contrast(142, 178, 40); c < 0xa000 {
		t.Errorf("a cat has a contrast of %#x", c)
	}
}

func TestLooksAreFewAndSmall(t *testing.T) {
	s := NewStudio(Policy{Class: Thumbnails})
	looks := 0
	for i := range 300 { // ten seconds
		if look := s.Look(stripes(64, 48, noon.Add(time.Duration(i)*time.Second/30))); look != nil {
			looks++
			if look.Width != 64 {
				t.Fatalf("%d wide", look.Width)
			}
			s.Drop(look)
		}
	}
	if looks < 40 || looks > 60 {
		t.Errorf("%d looks in 10 s", looks)
	}
	if s.Look(stripes(64, 48, noon.Add(-time.Hour))) == nil {
		t.Error("a clock that was set back stops pictures")
	}
	if s.Look(&hal.Frame{Captured: noon.Add(time.Hour), Samples: []float32{1}}) != nil {
		t.Error("a picture of a sound")
	}
	s.Drop(nil)
}

func TestAlbum(t *testing.T) {
	a := &Album{Most: 3, Age: time.Hour}
	for i := range 5 {
		a.Put(&Picture{ID: fmt.Sprint(i), Taken: noon.Add(time.Duration(i) * time.Minute)})
	}
	a.Put(&Picture{ID: "3", Taken: noon.Add(9 * time.Minute)})
	if a.Get("1") != nil || a.Get("2") == nil || a.Get("4") == nil || !a.Get("3").Taken.Equal(noon.Add(9*time.Minute)) {
		t.Error("not the last three")
	}
	a.Expire(noon.Add(time.Hour + 5*time.Minute))
	if a.Get("2") != nil || a.Get("4") != nil || a.Get("3") == nil {
		t.Error("not those of the last hour")
	}
	a.Clear()
	if a.Get("3") != nil {
		t.Error("cleared")
	}
}
