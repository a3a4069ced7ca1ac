package vision

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/gif"
	"image/jpeg"
	"image/png"

	"golang.org/x/image/bmp"

	"github.com/covey-edge/covey/hal"
)

// Limits on picture files, checked before anything is decoded.
const (
	MaxPictureBytes  = 16 << 20
	MaxPicturePixels = 16 << 20

	// MaxProgressivePixels is less, for JPEG that is stored in layers: until its end
	// image/jpeg keeps 12 bytes a pixel, and 200 MB would end a small board.
	MaxProgressivePixels = 4 << 20
)

// DecodePicture decodes a JPEG, PNG, BMP or GIF (its first picture) into f's
// Format, size and planes; the rest of f is left alone. A JPEG stays in its own
// planes and is turned as its camera says (EXIF). Memory of f is reused where the
// decoder allows it. Errors are E_IMAGE and E_IMAGE_SIZE.
func DecodePicture(b []byte, f *hal.Frame) error {
	if len(b) > MaxPictureBytes {
		return &hal.Error{Code: hal.CodeImageSize, Text: fmt.Sprintf("picture of more than %d MiB: make it smaller", MaxPictureBytes>>20)}
	}
	kind, err := kindOf(b)
	if err != nil {
		return err
	}
	c, err := kind.config(b)
	if err != nil {
		return imageError(kind.name, err)
	}
	if c.Width <= 0 || c.Height <= 0 {
		return imageError(kind.name, fmt.Errorf("it has %d×%d pixels", c.Width, c.Height))
	}
	if int64(c.Width)*int64(c.Height) > MaxPicturePixels {
		return &hal.Error{Code: hal.CodeImageSize, Text: fmt.Sprintf(
			"%d×%d is more than %d megapixels: make the picture smaller", c.Width, c.Height, MaxPicturePixels>>20)}
	}
	info := JPEG{Orientation: 1}
	if kind.name == "JPEG" {
		var known bool
		if info, known = InspectJPEG(b); (info.Progressive || !known) && c.Width*c.Height > MaxProgressivePixels {
			return &hal.Error{Code: hal.CodeImageSize, Text: fmt.Sprintf(
				"progressive JPEG of %d×%d would need %d MB to decode, limit is %d megapixels: save it as baseline, make it smaller, or install libturbojpeg0",
				c.Width, c.Height, c.Width*c.Height*15/1e6, MaxProgressivePixels>>20)}
		}
		if known && !info.Tables {
			b = withTables(b)
		}
	}
	img, err := kind.decode(b)
	if err != nil {
		return imageError(kind.name, err)
	}
	setImage(f, img)
	Orient(f, info.Orientation)
	return nil
}

func imageError(kind string, err error) error {
	return &hal.Error{Code: hal.CodeImage, Text: fmt.Sprintf("broken %s picture (%v): copy it again", kind, err), Err: err}
}

// A kind is a picture format. Formats are told by their first bytes alone, and
// decoded by the package of that format: image.Decode depends on what else a
// program registers.
type kind struct {
	name   string
	magic  string
	config func([]byte) (image.Config, error)
	decode func([]byte) (image.Image, error)
}

func kindOf(b []byte) (kind, error) {
	for _, k := range []kind{
		{"JPEG", "\xff\xd8",
			func(b []byte) (image.Config, error) { return jpeg.DecodeConfig(bytes.NewReader(b)) },
			func(b []byte) (image.Image, error) { return jpeg.Decode(bytes.NewReader(b)) }},
		{"PNG", "\x89PNG",
			func(b []byte) (image.Config, error) { return png.DecodeConfig(bytes.NewReader(b)) },
			func(b []byte) (image.Image, error) { return png.Decode(bytes.NewReader(b)) }},
		{"BMP", "BM",
			func(b []byte) (image.Config, error) { return bmp.DecodeConfig(bytes.NewReader(b)) },
			func(b []byte) (image.Image, error) { return bmp.Decode(bytes.NewReader(b)) }},
		{"GIF", "GIF8",
			func(b []byte) (image.Config, error) { return gif.DecodeConfig(bytes.NewReader(b)) },
			func(b []byte) (image.Image, error) { return gif.Decode(bytes.NewReader(b)) }},
	} {
		if bytes.HasPrefix(b, []byte(k.magic)) {
			return k, nil
		}
	}
	if len(b) == 0 {
		return kind{}, &hal.Error{Code: hal.CodeImage, Text: "picture is 0 bytes: copy it again", Err: errUnknown}
	}
	return kind{}, &hal.Error{Code: hal.CodeImage, Text: fmt.Sprintf("not a picture (found %.8q): give JPEG, PNG, BMP or GIF", b[:min(8, len(b))]), Err: errUnknown}
}

var errUnknown = errors.New("unknown picture format")

// setImage makes f show img, without copying where a frame can say it.
func setImage(f *hal.Frame, img image.Image) {
	r := img.Bounds()
	w, h := r.Dx(), r.Dy()
	old := f.Planes[0]
	f.Width, f.Height, f.Limited, f.Planes, f.Strides = w, h, false, [3][]byte{}, [3]int{}
	plane := func(format hal.PixelFormat, pix []byte, offset, stride int) {
		f.Format, f.Planes[0], f.Strides[0] = format, pix[offset:], stride
	}
	switch m := img.(type) {
	case *image.YCbCr:
		y, c := m.YOffset(r.Min.X, r.Min.Y), m.COffset(r.Min.X, r.Min.Y)
		format, known := subsampling(m.SubsampleRatio)
		if !known {
			break
		}
		plane(format, m.Y, y, m.YStride)
		f.Planes[1], f.Planes[2], f.Strides[1], f.Strides[2] = m.Cb[c:], m.Cr[c:], m.CStride, m.CStride
		return
	case *image.Gray:
		plane(hal.FormatGray, m.Pix, m.PixOffset(r.Min.X, r.Min.Y), m.Stride)
		return
	case *image.NRGBA:
		plane(hal.FormatRGBA, m.Pix, m.PixOffset(r.Min.X, r.Min.Y), m.Stride)
		return
	case *image.RGBA: // premultiplied: over black
		plane(hal.FormatRGBA, m.Pix, m.PixOffset(r.Min.X, r.Min.Y), m.Stride)
		return
	case *image.Paletted:
		plane(hal.FormatRGB, paletted(grow(old, 3*w*h), m), 0, 3*w)
		return
	}
	// What is rare (16 bits, CMYK, alpha) is converted, alpha over black.
	rgba := &image.RGBA{Pix: grow(old, 4*w*h), Stride: 4 * w, Rect: image.Rect(0, 0, w, h)}
	draw.Draw(rgba, rgba.Rect, img, r.Min, draw.Src)
	plane(hal.FormatRGBA, rgba.Pix, 0, rgba.Stride)
}

func subsampling(r image.YCbCrSubsampleRatio) (f hal.PixelFormat, known bool) {
	switch r {
	case image.YCbCrSubsampleRatio420:
		return hal.FormatYUV420, true
	case image.YCbCrSubsampleRatio422:
		return hal.FormatYUV422, true
	case image.YCbCrSubsampleRatio444:
		return hal.FormatYUV444, true
	case image.YCbCrSubsampleRatio440:
		return hal.FormatYUV440, true
	}
	return hal.FormatNone, false
}

// grow is b with n bytes, in its old memory when that is large enough.
func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// paletted writes a picture with a palette into rgb, without its transparency.
func paletted(rgb []byte, m *image.Paletted) []byte {
	var table [256][3]byte
	for i, c := range m.Palette {
		n := color.NRGBAModel.Convert(c).(color.NRGBA)
		table[i] = [3]byte{n.R, n.G, n.B}
	}
	w, h := m.Rect.Dx(), m.Rect.Dy()
	for y := range h {
		for x, v := range m.Pix[y*m.Stride : y*m.Stride+w] {
			copy(rgb[3*(y*w+x):], table[v][:])
		}
	}
	return rgb
}
