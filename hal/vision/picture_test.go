package vision

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/color"
	"image/color/palette"
	"image/draw"
	"image/gif"
	"image/jpeg"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/image/bmp"

	"github.com/covey-edge/covey/hal"
)

// waves draws soft colours, which survive JPEG, into any picture.
func waves(m draw.Image) draw.Image {
	r := m.Bounds()
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; x++ {
			f := func(k float64) uint8 { return uint8(128 + 90*math.Sin(k+float64(x)/17)*math.Cos(float64(y)/13)) }
			m.Set(x, y, color.RGBA{f(0), f(1), f(2), 255})
		}
	}
	return m
}

func encode(t testing.TB, kind string, m image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	var err error
	switch kind {
	case "png":
		err = png.Encode(&b, m)
	case "jpeg":
		err = jpeg.Encode(&b, m, &jpeg.Options{Quality: 95})
	case "gif":
		err = gif.Encode(&b, m, nil)
	case "bmp":
		err = bmp.Encode(&b, m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// rgb fills a frame into a tensor of its own size.
func rgb(t testing.TB, f *hal.Frame) []byte {
	t.Helper()
	filler, err := NewFiller(input(hal.Uint8, 1, f.Height, f.Width, 3), Options{})
	if err != nil {
		t.Fatal(err)
	}
	dst := make([]byte, 3*f.Width*f.Height)
	if _, err := filler.Fill(dst, f); err != nil {
		t.Fatal(err)
	}
	return dst
}

// same compares a frame with a picture decoded by Go, to within most a channel.
func same(t *testing.T, f *hal.Frame, want image.Image, most int) {
	t.Helper()
	r := want.Bounds()
	if f.Width != r.Dx() || f.Height != r.Dy() {
		t.Fatalf("size %d×%d, want %v", f.Width, f.Height, r)
	}
	pix := rgb(t, f)
	step := 1 + len(pix)/200_000 // of a large picture not every pixel
	for i := 0; i < len(pix); i += step {
		p, got := i/3, pix[i]
		c := color.NRGBAModel.Convert(want.At(r.Min.X+p%f.Width, r.Min.Y+p/f.Width)).(color.NRGBA)
		if d := int(got) - int([3]byte{c.R, c.G, c.B}[i%3]); d > most || d < -most {
			t.Fatalf("pixel %d,%d channel %d: got %d, want %v", p%f.Width, p/f.Width, i%3, got, c)
		}
	}
}

func TestDecodePicture(t *testing.T) {
	r := image.Rect(0, 0, 61, 47)
	for _, tt := range []struct {
		name, kind string
		img        draw.Image
		format     hal.PixelFormat
		most       int
	}{
		{"png grey", "png", image.NewGray(r), hal.FormatGray, 0},
		{"png opaque", "png", image.NewRGBA(r), hal.FormatRGBA, 0},
		{"png palette", "png", image.NewPaletted(r, palette.Plan9), hal.FormatRGB, 0},
		{"png 16 bits", "png", image.NewNRGBA64(r), hal.FormatRGBA, 0},
		{"png grey 16 bits", "png", image.NewGray16(r), hal.FormatRGBA, 0},
		{"jpeg", "jpeg", image.NewRGBA(r), hal.FormatYUV420, 12}, // colours between samples are interpolated here, not repeated
		{"jpeg grey", "jpeg", image.NewGray(r), hal.FormatGray, 0},
		{"gif", "gif", image.NewPaletted(r, palette.WebSafe), hal.FormatRGB, 0},
		{"bmp", "bmp", image.NewRGBA(r), hal.FormatRGBA, 0},
		{"bmp palette", "bmp", image.NewPaletted(r, palette.WebSafe), hal.FormatRGB, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := encode(t, tt.kind, waves(tt.img))
			want, _, err := image.Decode(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			f := hal.Frame{Seq: 7, Name: "x"}
			if err := DecodePicture(b, &f); err != nil {
				t.Fatal(err)
			}
			if f.Format != tt.format || f.Seq != 7 || f.Name != "x" {
				t.Errorf("frame %v %d %q", f.Format, f.Seq, f.Name)
			}
			same(t, &f, want, tt.most)
			if err := DecodePicture(b, &f); err != nil { // into used memory
				t.Fatal(err)
			}
			same(t, &f, want, tt.most)
		})
	}
}

// TestOrientChroma: colours follow when planes of any subsampling are turned.
func TestOrientChroma(t *testing.T) {
	for name, format := range formatNames {
		if format == hal.FormatYUYV {
			continue // pictures in files are never that
		}
		for number := 1; number <= 8; number++ {
			f := newFrame(format, 13, 9)
			want := *newFrame(format, 13, 9)
			Orient(f, number)
			if err := checkFrame(f); err != nil {
				t.Fatalf("%s turned by %d: %v", name, number, err)
			}
			// Turned back it is what it was: only quarter turns are not their own inverse.
			Orient(f, map[int]int{6: 8, 8: 6}[number]+map[int]int{1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 7: 7}[number])
			if f.Format != want.Format || !bytes.Equal(rgb(t, f), rgb(t, &want)) {
				t.Errorf("%s turned by %d and back is another picture", name, number)
			}
		}
	}
}

func TestTransparency(t *testing.T) {
	m := image.NewNRGBA(image.Rect(0, 0, 2, 1))
	m.SetNRGBA(0, 0, color.NRGBA{200, 100, 50, 10})
	var f hal.Frame
	if err := DecodePicture(encode(t, "png", m), &f); err != nil {
		t.Fatal(err)
	}
	if got := [3]byte(rgb(t, &f)); got != [3]byte{200, 100, 50} {
		t.Errorf("got %v: alpha is ignored", got)
	}
}

// TestOrientation: a picture with a corner marked is turned so that the mark is
// where each EXIF number puts it.
func TestOrientation(t *testing.T) {
	marks := map[int][2]bool{ // right, bottom: where the stored picture's upper left corner is to be seen
		1: {false, false}, 2: {true, false}, 3: {true, true}, 4: {false, true},
		5: {false, false}, 6: {true, false}, 7: {true, true}, 8: {false, true},
	}
	for _, grey := range []bool{true, false} {
		for number, where := range marks {
			r := image.Rect(0, 0, 48, 32)
			m := draw.Image(image.NewRGBA(r))
			if grey {
				m = image.NewGray(r)
			}
			draw.Draw(m, image.Rect(0, 0, 24, 16), image.White, image.Point{}, draw.Src)
			for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
				var f hal.Frame
				if err := DecodePicture(withExif(encode(t, "jpeg", m), order, number), &f); err != nil {
					t.Fatal(err)
				}
				w, h := 48, 32
				if number >= 5 {
					w, h = h, w
				}
				if f.Width != w || f.Height != h {
					t.Fatalf("orientation %d: %d×%d", number, f.Width, f.Height)
				}
				pix := rgb(t, &f)
				for _, right := range []bool{false, true} {
					for _, bottom := range []bool{false, true} {
						x, y := w/4, h/4
						if right {
							x += w / 2
						}
						if bottom {
							y += h / 2
						}
						if got, want := pix[3*(y*w+x)] > 128, where == [2]bool{right, bottom}; got != want {
							t.Errorf("orientation %d: right %v bottom %v is white: %v", number, right, bottom, got)
						}
					}
				}
			}
		}
	}
}

// withExif puts an EXIF segment with an orientation behind a JPEG's first marker.
func withExif(b []byte, order binary.AppendByteOrder, number int) []byte {
	tiff := []byte("II")
	if order.String() == "BigEndian" {
		tiff = []byte("MM")
	}
	tiff = order.AppendUint32(order.AppendUint16(tiff, 42), 8)
	tiff = order.AppendUint16(tiff, 2)
	for _, tag := range []uint16{0x0100, 0x0112} {
		tiff = order.AppendUint32(order.AppendUint16(order.AppendUint16(tiff, tag), 3), 1)
		tiff = append(order.AppendUint16(tiff, uint16(number)), 0, 0)
	}
	segment := binary.BigEndian.AppendUint16([]byte{0xff, 0xe1}, uint16(2+6+len(tiff)))
	segment = append(append(segment, "Exif\x00\x00"...), tiff...)
	return append(append([]byte{0xff, 0xd8}, segment...), b[2:]...)
}

func TestBadPictures(t *testing.T) {
	good := encode(t, "jpeg", waves(image.NewRGBA(image.Rect(0, 0, 64, 64))))
	large := encode(t, "png", image.NewGray(image.Rect(0, 0, 8, 8)))
	binary.BigEndian.PutUint32(large[16:], 65535)
	binary.BigEndian.PutUint32(large[20:], 65535)
	binary.BigEndian.PutUint32(large[29:], crc(large[12:29]))
	for _, tt := range []struct{ name, bytes, want string }{
		{"empty", "", "E_IMAGE: picture is 0 bytes"},
		{"text", "hello, I am no picture", `E_IMAGE: not a picture (found "hello, I")`},
		{"cut jpeg", string(good[:len(good)/2]), "E_IMAGE: broken JPEG picture"},
		{"two bytes", "\xff\xd8", "E_IMAGE: broken JPEG picture"},
		{"huge png", string(large), "E_IMAGE_SIZE: 65535×65535 is more than 16 megapixels"},
		{"huge file", strings.Repeat("x", MaxPictureBytes+1), "E_IMAGE_SIZE: picture of more than 16 MiB"},
		{"bmp without pixels", "BM" + strings.Repeat("\x00", 100), "E_IMAGE: broken BMP picture"},
	} {
		err := DecodePicture([]byte(tt.bytes), &hal.Frame{})
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}

func crc(b []byte) uint32 {
	c := ^uint32(0)
	for _, v := range b {
		c ^= uint32(v)
		for range 8 {
			c = c>>1 ^ 0xedb88320&-(c&1)
		}
	}
	return ^c
}

func TestRealPictures(t *testing.T) {
	dir := os.Getenv("COVEY_MODELS")
	if dir == "" {
		t.Fatal("COVEY_MODELS is not set: run ./scripts/setup, then . scripts/env")
	}
	for name, most := range map[string]int{"label_image/peacock.png": 0, "ssd/example.jpg": 80} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		want, _, err := image.Decode(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		var f hal.Frame
		if err := DecodePicture(b, &f); err != nil {
			t.Fatal(err)
		}
		same(t, &f, want, most)
	}
}

func FuzzDecodePicture(f *testing.F) {
	r := image.Rect(0, 0, 9, 7)
	for _, kind := range []string{"png", "gif", "bmp", "jpeg"} {
		b := encode(f, kind, waves(image.NewPaletted(r, palette.WebSafe)))
		f.Add(b)
		if kind == "jpeg" {
			f.Add(withExif(b, binary.BigEndian, 6))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := kindOf(b); err == nil { // large pictures only slow this down
			if c, err := k.config(b); err == nil && c.Width*c.Height > 1<<16 {
				return
			}
		}
		var frame hal.Frame
		if err := DecodePicture(b, &frame); err != nil {
			if c := hal.CodeOf(err); c != hal.CodeImage && c != hal.CodeImageSize {
				t.Fatalf("no code: %v", err)
			}
			return
		}
		if frame.Width < 1<<14 && frame.Height < 1<<14 {
			rgb(t, &frame)
		}
	})
}
