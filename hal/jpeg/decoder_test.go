package jpeg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"image"
	"image/color"
	stdjpeg "image/jpeg"
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/runner"
	"github.com/covey-edge/covey/hal/vision"
)

// TestMain lets the test binary be the stage that shuts runners in.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "stage" {
		println(runner.Stage(os.Args[2:]).Error())
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// turbo is the engine over the real runner, through the real stage.
func turbo(t testing.TB) *runner.Engine {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return runner.New(runner.Config{
		Name: "jpeg", Program: haltest.Program(t, "covey-runner-jpeg"),
		Stage: []string{self, "stage"},
	})
}

// ready is a decoder whose runner is there.
func ready(t testing.TB) *Decoder {
	t.Helper()
	d := New(turbo(t), Most)
	t.Cleanup(func() { d.Close() })
	d.opens.Wait()
	if !d.ready() {
		t.Fatalf("no runner: %v", d.State().Why)
	}
	return d
}

// picture is soft waves of colour, of a subsampling that cjpeg of the standard
// library has: 4:2:0, or grey.
func picture(t testing.TB, w, h int, grey bool) []byte {
	t.Helper()
	r := image.Rect(0, 0, w, h)
	var m interface {
		image.Image
		Set(x, y int, c color.Color)
	} = image.NewRGBA(r)
	if grey {
		m = image.NewGray(r)
	}
	for y := range h {
		for x := range w {
			f := func(k float64) uint8 { return uint8(128 + 90*math.Sin(k+float64(x)/17)*math.Cos(float64(y)/13)) }
			m.Set(x, y, color.RGBA{f(0), f(1), f(2), 255})
		}
	}
	var b bytes.Buffer
	if err := stdjpeg.Encode(&b, m, &stdjpeg.Options{Quality: 90}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// turned puts an EXIF segment with an orientation behind a JPEG's first marker.
func turned(b []byte, number byte) []byte {
	exif := "\xff\xe1\x00\x22Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00" + string(number) + "\x00\x00\x00\x00\x00\x00"
	return append(append([]byte{0xff, 0xd8}, exif...), b[2:]...)
}

// rgb fills a frame into a tensor of w×h.
func rgb(t testing.TB, f *hal.Frame, w, h int) []byte {
	t.Helper()
	filler, err := vision.NewFiller(hal.TensorInfo{Type: hal.Uint8, Shape: []int{1, h, w, 3}}, vision.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dst := make([]byte, 3*w*h)
	if _, err := filler.Fill(dst, f); err != nil {
		t.Fatal(err)
	}
	return dst
}

// apart is how far two pictures are, at most and on average.
func apart(a, b []byte) (most int, mean float64) {
	sum := 0
	for i, v := range a {
		d := max(int(v)-int(b[i]), int(b[i])-int(v))
		most, sum = max(most, d), sum+d
	}
	return most, float64(sum) / float64(len(a))
}

// TestSamePicture: every picture is what vision makes of it, to within the rounding
// of two inverse cosine transforms: 2 for Y, U and V each, which are 6 in a colour.
func TestSamePicture(t *testing.T) {
	d := ready(t)
	example, err := os.ReadFile(filepath.Join(haltest.Models(t), "ssd/example.jpg"))
	if err != nil {
		t.Fatal(err)
	}
	pictures := map[string][]byte{"photo": example}
	for _, size := range [][2]int{{1, 1}, {2, 2}, {15, 17}, {64, 48}, {333, 125}, {1, 90}} {
		pictures[image.Pt(size[0], size[1]).String()] = picture(t, size[0], size[1], false)
		pictures["grey "+image.Pt(size[0], size[1]).String()] = picture(t, size[0], size[1], true)
	}
	for number := byte(1); number <= 8; number++ {
		pictures["turned "+string('0'+number)] = turned(picture(t, 40, 24, false), number)
	}
	if at := bytes.Index(picture(t, 64, 48, false), []byte{0xff, 0xc4}); at > 0 { // Motion JPEG has no tables
		b := picture(t, 64, 48, false)
		pictures["motion"] = append(bytes.Clone(b[:at]), b[at+420:]...)
	}
	for _, dir := range []string{"baseline", "progressive"} {
		for name, b := range samplings3(t, dir) {
			pictures[name] = b
		}
	}
	f := hal.Frame{Seq: 7, Name: "x"}
	for name, b := range pictures {
		before := d.State()
		if err := d.Decode(b, &f); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var want hal.Frame
		if err := vision.DecodePicture(b, &want); err != nil {
			t.Fatal(err)
		}
		if f.Format != want.Format || f.Width != want.Width || f.Height != want.Height || f.Seq != 7 || f.Name != "x" {
			t.Errorf("%s: %v %d×%d, want %v %d×%d", name, f.Format, f.Width, f.Height, want.Format, want.Width, want.Height)
			continue
		}
		if most, mean := apart(rgb(t, &f, f.Width, f.Height), rgb(t, &want, f.Width, f.Height)); most > 6 || mean > 1 {
			t.Errorf("%s: %d apart at most, %.2f on average", name, most, mean)
		}
		if d.State() != before {
			t.Fatalf("%s: %+v", name, d.State())
		}
	}
}

// samplings3 are pictures of every subsampling, which Go cannot write.
func samplings3(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.jpg"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%v: %v", files, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = b
	}
	return all
}

// TestRunnerDecodes: what is plain is not left to the agent.
func TestRunnerDecodes(t *testing.T) {
	d := ready(t)
	for _, dir := range []string{"baseline", "progressive"} {
		for name, b := range samplings3(t, dir) {
			var f hal.Frame
			if err := d.run(Request{len(b), 8}, b, &f); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestPicturesApart: the tables of one picture are not taken for the next, which has
// none and means the usual ones.
func TestPicturesApart(t *testing.T) {
	d := ready(t)
	b := picture(t, 64, 48, false)
	at := bytes.Index(b, []byte{0xff, 0xc4})
	bare := append(bytes.Clone(b[:at]), b[at+420:]...)
	var want, got hal.Frame
	if err := d.run(Request{len(b), 8}, b, &want); err != nil {
		t.Fatal(err)
	}
	for name, before := range samplings3(t, "progressive") {
		if err := d.run(Request{len(before), 8}, before, &got); err != nil {
			t.Fatal(err)
		}
		if err := d.run(Request{len(bare), 8}, bare, &got); err != nil {
			t.Fatalf("after %s: %v", name, err)
		}
		if !bytes.Equal(rgb(t, &got, 64, 48), rgb(t, &want, 64, 48)) {
			t.Errorf("after %s it is another picture", name)
		}
	}
}

// TestScaled: where the caller wants little, the picture comes smaller, never below.
func TestScaled(t *testing.T) {
	d := ready(t)
	b := picture(t, 641, 483, false)
	for _, tt := range []struct{ wantW, wantH, w, h int }{
		{0, 0, 641, 483}, {641, 483, 641, 483}, {321, 242, 321, 242}, {322, 100, 641, 483}, {100, 100, 161, 121}, {1, 1, 81, 61},
	} {
		var f hal.Frame
		f.Want.Width, f.Want.Height = tt.wantW, tt.wantH
		if err := d.Decode(b, &f); err != nil {
			t.Fatal(err)
		}
		if f.Width != tt.w || f.Height != tt.h {
			t.Errorf("want %d×%d: got %d×%d, want %d×%d", tt.wantW, tt.wantH, f.Width, f.Height, tt.w, tt.h)
		}
	}
	var f hal.Frame
	f.Want.Width, f.Want.Height = 240, 320 // of the upright picture
	if err := d.Decode(turned(b, 6), &f); err != nil || f.Width != 242 || f.Height != 321 {
		t.Errorf("turned: %d×%d, %v", f.Width, f.Height, err)
	}
}

// TestRefused: broken pictures get the errors that they get without a runner, and do
// not harm it.
func TestRefused(t *testing.T) {
	d := ready(t)
	good := picture(t, 64, 64, false)
	bomb := bytes.Clone(good)
	at := bytes.Index(bomb, []byte{0xff, 0xc0})
	binary.BigEndian.PutUint32(bomb[at+5:], 0xffffffff)
	for name, b := range map[string][]byte{
		"empty": nil, "text": []byte("no picture"), "cut": good[:len(good)/2], "two bytes": good[:2], "bomb": bomb,
		"large": make([]byte, vision.MaxPictureBytes+1), "no data": good[:bytes.Index(good, []byte{0xff, 0xda})],
	} {
		var f, other hal.Frame
		err, want := d.Decode(b, &f), vision.DecodePicture(b, &other)
		if err == nil || want == nil || err.Error() != want.Error() {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	// The runner refuses by itself what the agent did not see through.
	copy(d.session.Input(0, 0), bomb)
	Request{len(bomb), 8}.Put(d.session.Input(0, 1))
	if _, err := d.session.Run(0); err == nil || errors.Is(err, hal.ErrLost) {
		t.Errorf("bomb: %v", err)
	}
	for _, r := range []Request{{-1, 8}, {len(good), 0}, {len(good), 3}, {vision.MaxPictureBytes + 1, 8}, {0, 8}, {math.MinInt32, 1}} {
		r.Put(d.session.Input(0, 1))
		if _, err := d.session.Run(0); err == nil || errors.Is(err, hal.ErrLost) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	var f hal.Frame
	if err := d.Decode(good, &f); err != nil || !d.State().Runner || d.State().Restarts != 0 {
		t.Errorf("after all that: %v, %+v", err, d.State())
	}
}

// TestOtherKinds: what is no JPEG is decoded too.
func TestOtherKinds(t *testing.T) {
	d := ready(t)
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, 5, 4))); err != nil {
		t.Fatal(err)
	}
	var f hal.Frame
	if err := d.Decode(b.Bytes(), &f); err != nil || f.Width != 5 || f.Format != hal.FormatGray {
		t.Errorf("%v %+v", err, f)
	}
}

// TestRunnerDies: no picture is missed, and the runner comes back.
func TestRunnerDies(t *testing.T) {
	d := ready(t)
	b := picture(t, 64, 48, false)
	engine := d.engine.(*runner.Engine)
	engine.Kill()
	var f hal.Frame
	if err := d.Decode(b, &f); err != nil {
		t.Fatal(err)
	}
	if s := d.State(); s.Runner || s.Why == nil || s.Restarts != 1 {
		t.Errorf("killed, and %+v", s)
	}
	d.engine = turbo(t) // Kill is for ever
	d.next = time.Time{}
	if err := d.Decode(b, &f); err != nil {
		t.Fatal(err)
	}
	d.opens.Wait()
	if err := d.Decode(b, &f); err != nil {
		t.Fatal(err)
	}
	if s := d.State(); !s.Runner || s.Why != nil || s.Restarts != 1 || d.session == nil {
		t.Errorf("back, and %+v", s)
	}
}

// TestBackoff: an engine that fails is asked again, less and less often.
func TestBackoff(t *testing.T) {
	b := picture(t, 8, 8, true)
	synctest.Test(t, func(t *testing.T) {
		opens := 0
		broken := errors.New("no library")
		d := New(&haltest.FakeEngine{OnOpen: func(hal.Model, hal.Options, []byte) error { opens++; return broken }}, Most)
		defer d.Close()
		begin := time.Now()
		for time.Since(begin) < 10*time.Minute {
			synctest.Wait()
			var f hal.Frame
			if err := d.Decode(b, &f); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		// After 0, 1, 3, 7, 15, 31 s, 63 s, and then each minute.
		if opens < 14 || opens > 16 {
			t.Errorf("%d opens in ten minutes, want 15", opens)
		}
		if s := d.State(); s.Runner || !errors.Is(s.Why, broken) {
			t.Errorf("%+v", s)
		}
	})
}

// TestLies: a runner that says what cannot be is given up, and the picture is right.
func TestLies(t *testing.T) {
	b := picture(t, 64, 48, false)
	good, _ := NewPicture(64, 48, 420)
	for name, spoil := range map[string]func(p *Picture){
		"wide": func(p *Picture) { p.Width = 1 << 20 }, "no rows": func(p *Picture) { p.RowsY = 0 }, "stride": func(p *Picture) { p.StrideC = -5 },
		"sampling": func(p *Picture) { p.Sampling = 411 }, "size": func(p *Picture) { *p, _ = NewPicture(640, 480, 420) },
		"empty": func(p *Picture) { *p = Picture{} },
	} {
		lie := good
		spoil(&lie)
		in, out := Most.Inputs(), Most.Outputs()
		out[0].Shape = []int{good.Size()}
		d := New(&haltest.FakeEngine{Inputs: in[:], Outputs: out[:], Compute: func(_, out [][]byte) { lie.Put(out[1]) }}, Most)
		d.opens.Wait()
		var f hal.Frame
		if err := d.Decode(b, &f); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if s := d.State(); s.Runner || s.Restarts != 1 || f.Width != 64 || f.Height != 48 {
			t.Errorf("%s: %+v, %d×%d", name, s, f.Width, f.Height)
		}
		d.Close()
	}
}

// TestOtherEngine: a program that does something else is refused.
func TestOtherEngine(t *testing.T) {
	d := New(&haltest.FakeEngine{}, Most)
	defer d.Close()
	d.opens.Wait()
	if s := d.State(); s.Runner || hal.CodeOf(s.Why) != hal.CodeEngine {
		t.Errorf("%+v", s)
	}
}

// TestWithoutLibrary: the runner says what is missing and how to mend it, and pictures
// are decoded all the same.
func TestWithoutLibrary(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "libturbojpeg.so.0"), []byte("no library"), 0o700); err != nil {
		t.Fatal(err)
	}
	// Without a stage: behind it the runner could not read our file at all.
	engine := runner.New(runner.Config{Name: "jpeg", Program: haltest.Program(t, "covey-runner-jpeg"), Env: []string{"LD_LIBRARY_PATH=" + dir}})
	devices, diagnoses := engine.Probe(t.Context())
	missing := func(d hal.Diagnosis) bool {
		return d.Subject == "libturbojpeg" && !d.OK && strings.Contains(d.Detail, dir) && strings.Contains(d.Fix, "install libturbojpeg0")
	}
	if len(devices) != 0 || !slices.ContainsFunc(diagnoses, missing) {
		t.Errorf("probe: %+v %+v", devices, diagnoses)
	}
	d := New(engine, Most)
	defer d.Close()
	d.opens.Wait()
	if s := d.State(); s.Runner || hal.CodeOf(s.Why) != hal.CodeEngine || !strings.Contains(s.Why.Error(), "install libturbojpeg0") {
		t.Errorf("%+v", s)
	}
	var f hal.Frame
	if err := d.Decode(picture(t, 20, 10, false), &f); err != nil || f.Width != 20 {
		t.Errorf("%v, width %d", err, f.Width)
	}
}

// TestSeveralCameras: each has a session.
func TestSeveralCameras(t *testing.T) {
	for i := range 3 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			d := ready(t)
			b := picture(t, 100+i, 80, false)
			for range 20 {
				var f hal.Frame
				if err := d.Decode(b, &f); err != nil || f.Width != 100+i {
					t.Fatalf("%v, width %d", err, f.Width)
				}
			}
		})
	}
}

func TestDecodeAllocatesNothing(t *testing.T) {
	d, b := ready(t), picture(t, 320, 240, false)
	var f hal.Frame
	if n := testing.AllocsPerRun(10, func() {
		if err := d.Decode(b, &f); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a picture", n)
	}
}

// FuzzDecode holds the runner and the agent's own decoder against each other.
func FuzzDecode(f *testing.F) {
	for _, grey := range []bool{true, false} {
		b := picture(f, 9, 7, grey)
		f.Add(b)
		f.Add(turned(b, 6))
	}
	d := ready(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if info, ok := vision.InspectJPEG(b); ok && info.Width*info.Height > 1<<16 {
			return // only slower
		}
		var frame, other hal.Frame
		err := d.Decode(b, &frame)
		if s := d.State(); !s.Runner {
			t.Fatalf("the runner is gone: %v", s.Why)
		}
		if err != nil {
			if c := hal.CodeOf(err); c != hal.CodeImage && c != hal.CodeImageSize {
				t.Fatalf("no code: %v", err)
			}
			return
		}
		if vision.DecodePicture(b, &other) == nil && (other.Width != frame.Width || other.Height != frame.Height) {
			t.Fatalf("%d×%d, the agent says %d×%d", frame.Width, frame.Height, other.Width, other.Height)
		}
		if frame.Width < 1<<14 && frame.Height < 1<<14 {
			rgb(t, &frame, frame.Width, frame.Height)
		}
	})
}

func FuzzParsePicture(f *testing.F) {
	p, _ := NewPicture(641, 3, 422)
	b := make([]byte, PictureSize)
	p.Put(b)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePicture(b)
		if err != nil {
			return
		}
		if p.Size() <= 0 || p.StrideY < p.Width || p.RowsY < p.Height || p.Size() > 3*(p.Width+1)*(p.Height+1) {
			t.Errorf("%+v of %d bytes", p, p.Size())
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	for _, size := range []image.Point{{640, 480}, {1280, 720}, {1920, 1080}} {
		file := noisy(b, size)
		b.Run("go/"+size.String(), func(b *testing.B) {
			var f hal.Frame
			for b.Loop() {
				if err := vision.DecodePicture(file, &f); err != nil {
					b.Fatal(err)
				}
			}
		})
		for name, part := range map[string]int{"runner/": 1, "runner-half/": 2} {
			b.Run(name+size.String(), func(b *testing.B) {
				d := ready(b)
				var f hal.Frame
				f.Want.Width, f.Want.Height = size.X/part, size.Y/part
				for b.Loop() {
					if err := d.Decode(file, &f); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// noisy is a picture that costs as much as a camera's.
func noisy(t testing.TB, size image.Point) []byte {
	m := image.NewRGBA(image.Rectangle{Max: size})
	rnd := rand.New(rand.NewPCG(1, 2))
	for y := range size.Y {
		for x := range size.X {
			f := func(k float64) uint8 {
				return uint8(128 + 90*math.Sin(k+float64(x)/37)*math.Cos(float64(y)/23) + float64(rnd.IntN(16)))
			}
			m.Set(x, y, color.RGBA{f(0), f(1), f(2), 255})
		}
	}
	var b bytes.Buffer
	if err := stdjpeg.Encode(&b, m, &stdjpeg.Options{Quality: 85}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
