package source

import (
	"bytes"
	"errors"
	"image"
	"image/jpeg"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/covey-edge/covey/hal"
)

// picture is a JPEG whose data depend on n, with an application segment that holds
// a whole JPEG, as a thumbnail is.
func picture(t testing.TB, n int) []byte {
	t.Helper()
	m := image.NewGray(image.Rect(0, 0, 64, 48))
	for i := range m.Pix {
		m.Pix[i] = byte(i * (n + 3) * 2654435761 >> 7)
	}
	var small, b bytes.Buffer
	if err := errors.Join(jpeg.Encode(&small, image.NewGray(image.Rect(0, 0, 8, 8)), nil), jpeg.Encode(&b, m, &jpeg.Options{Quality: 100})); err != nil {
		t.Fatal(err)
	}
	size := small.Len() + 2
	app := append([]byte{0xff, 0xd8, 0xff, 0xff, 0xe1, byte(size >> 8), byte(size)}, small.Bytes()...)
	return append(app, b.Bytes()[2:]...)
}

// cut says what a stream has in it: the number of a picture, "bad", and how it ends.
func cut(t testing.TB, stream []byte, known ...[]byte) string {
	t.Helper()
	var got []string
	var r io.Reader = bytes.NewReader(stream)
	if len(stream) < 1<<20 {
		r = iotest.OneByteReader(r)
	}
	j := NewJPEGs(r)
	var memory []byte
	for {
		p, began, err := j.Next(memory)
		switch {
		case errors.Is(err, hal.ErrBadFrame):
			if hal.CodeOf(err) != hal.CodeImage {
				t.Errorf("got %v", err)
			}
			got = append(got, "bad")
			continue
		case err != nil:
			return strings.Join(append(got, err.Error()), " ")
		}
		name := "?"
		for i, k := range known {
			if bytes.Equal(p, k) && !began.IsZero() {
				name = string(rune('a' + i))
			}
		}
		got = append(got, name)
		memory = p
	}
}

func TestJPEGs(t *testing.T) {
	a, b := picture(t, 0), picture(t, 1)
	part := func(p []byte) string {
		return "\r\n--boundary\r\nContent-Type: image/jpeg\r\nContent-Length: 5\r\n\r\n" + string(p)
	}
	for _, tt := range []struct{ name, stream, want string }{
		{"nothing", "", "EOF"},
		{"one", string(a), "a EOF"},
		{"one after the other", string(a) + string(b) + string(a), "a b a EOF"},
		{"multipart", part(a) + part(b) + "\r\n--boundary--", "a b EOF"},
		{"rubbish before and between", "\xff\xff\x00\xff" + string(a) + strings.Repeat("\xff\xd9text", 30000) + string(b), "a b EOF"},
		{"cut in its data", part(a[:len(a)/2]) + part(b), "bad b EOF"},
		{"cut at its end", part(a[:len(a)-2]) + part(b), "bad b EOF"},
		{"cut in its header", part(a[:30]) + part(b) + part(a), "bad a EOF"}, // a segment swallows b's beginning
		{"cut by the end", string(a[:len(a)-1]), "EOF"},
		{"no marker", "\xff\xd8text" + string(a), "bad a EOF"},
		{"stuffing for a marker", "\xff\xd8\xff\x00" + string(a), "bad a EOF"},
		{"segment without a length", "\xff\xd8\xff\xe0\x00\x01" + string(a), "bad a EOF"},
		{"too large", "\xff\xd8\xff\xda\x00\x02" + strings.Repeat("data", MaxPicture/4) + string(a), "bad a EOF"},
		{"endless segments", "\xff\xd8" + strings.Repeat("\xff\xe0\xff\xff"+strings.Repeat("x", 65533), 257) + string(a), "bad a EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := strings.ReplaceAll(cut(t, []byte(tt.stream), a, b), "unexpected EOF", "EOF")
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// FuzzJPEGs: whatever comes, pictures are whole and within their bound, and one that
// follows is found when nothing before it could have swallowed it.
func FuzzJPEGs(f *testing.F) {
	good := picture(f, 0)
	f.Add(good)
	f.Add(good[:40])
	f.Add([]byte("\xff\xd8\xff\xda\x00\x02\xff\x00\xff\xd0\xff\xff\xd9--b\r\n\r\n\xff\xd8"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		j := NewJPEGs(bytes.NewReader(b))
		found := 0
		for {
			p, _, err := j.Next(nil)
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				break
			}
			if errors.Is(err, hal.ErrBadFrame) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(p, []byte{0xff, markSOI}) || !bytes.HasSuffix(p, []byte{0xff, markEOI}) || len(p) > MaxPicture {
				t.Fatalf("%d bytes that are no picture", len(p))
			}
			if !bytes.Contains(b, p) {
				t.Fatal("bytes that did not come")
			}
			found++
		}
		if !bytes.Contains(b, []byte{0xff, markSOI}) && found > 0 {
			t.Fatal("a picture from nowhere")
		}
	})
}
