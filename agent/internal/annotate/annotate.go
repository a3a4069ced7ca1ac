// Package annotate draws what a model saw onto the frame that it saw it in. Pure.
package annotate

import (
	"cmp"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"io"
	"slices"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gomedium"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

const quality = 90

// JPEG writes the frame as a JPEG with the result on it: a box and a label for
// each item that has a box, a caption below for the others.
func JPEG(w io.Writer, f *hal.Frame, r *wire.Result) error {
	img, err := picture(f)
	if err != nil {
		return err
	}
	if len(r.Items) > 0 {
		if err := drawItems(img, r); err != nil {
			return err
		}
	}
	if err := jpeg.Encode(w, img, &jpeg.Options{Quality: quality}); err != nil {
		return fmt.Errorf("write annotated picture: %w", err)
	}
	return nil
}

func drawItems(img *image.RGBA, r *wire.Result) error {
	c, err := newCanvas(img)
	if err != nil {
		return err
	}
	defer c.face.Close()
	var caption []wire.Item
	// The best comes last, on top.
	for _, it := range slices.Backward(r.Items) {
		if it.Box != nil {
			c.box(it)
		} else {
			caption = append(caption, it)
		}
	}
	c.caption(caption)
	return nil
}

// picture copies a frame into a picture that can be drawn on.
func picture(f *hal.Frame) (*image.RGBA, error) {
	r := image.Rect(0, 0, f.Width, f.Height)
	img := image.NewRGBA(r)
	var src image.Image
	yuv := func(ratio image.YCbCrSubsampleRatio) image.Image {
		return &image.YCbCr{Y: f.Planes[0], Cb: f.Planes[1], Cr: f.Planes[2], YStride: f.Strides[0], CStride: f.Strides[1],
			SubsampleRatio: ratio, Rect: r}
	}
	switch f.Format {
	case hal.FormatGray:
		src = &image.Gray{Pix: f.Planes[0], Stride: f.Strides[0], Rect: r}
	case hal.FormatRGB:
		copyPixels(img, f, 3)
		return img, nil
	case hal.FormatRGBA:
		copyPixels(img, f, 4)
		return img, nil
	case hal.FormatYUV420:
		src = yuv(image.YCbCrSubsampleRatio420)
	case hal.FormatYUV422:
		src = yuv(image.YCbCrSubsampleRatio422)
	case hal.FormatYUV444:
		src = yuv(image.YCbCrSubsampleRatio444)
	case hal.FormatYUV440:
		src = yuv(image.YCbCrSubsampleRatio440)
	default:
		return nil, fmt.Errorf("annotate frame %d: unknown pixel format %d", f.Seq, f.Format)
	}
	draw.Draw(img, r, src, image.Point{}, draw.Src)
	return img, nil
}

// copyPixels copies pixels of n bytes and leaves alpha out.
func copyPixels(img *image.RGBA, f *hal.Frame, n int) {
	for y := range f.Height {
		row, dst := f.Planes[0][y*f.Strides[0]:], img.Pix[y*img.Stride:]
		for x := range f.Width {
			copy(dst[4*x:4*x+3], row[n*x:])
			dst[4*x+3] = 255
		}
	}
}

// A canvas draws with lines and letters that suit the size of the picture.
type canvas struct {
	img  *image.RGBA
	face font.Face
	line int // width of lines, pixels
	pad  int // around letters
}

func newCanvas(img *image.RGBA) (*canvas, error) {
	ttf, err := opentype.Parse(gomedium.TTF)
	if err != nil {
		return nil, fmt.Errorf("annotate: %w", err)
	}
	side := min(img.Rect.Dx(), img.Rect.Dy())
	size := min(max(float64(side)/26, 11), 64)
	face, err := opentype.NewFace(ttf, &opentype.FaceOptions{Size: size, DPI: 72, Hinting: font.HintingFull})
	if err != nil {
		return nil, fmt.Errorf("annotate: %w", err)
	}
	return &canvas{img: img, face: face, line: max(2, side/200), pad: max(2, int(size/5))}, nil
}

// box draws one box and its label, above the box where there is room, else in it.
func (c *canvas) box(it wire.Item) {
	w, h := float32(c.img.Rect.Dx()), float32(c.img.Rect.Dy())
	r := image.Rect(int(it.Box[0]*w), int(it.Box[1]*h), int(it.Box[2]*w), int(it.Box[3]*h)).Intersect(c.img.Rect)
	paint := colourOf(it.ID)
	for _, side := range []image.Rectangle{
		{r.Min, image.Pt(r.Max.X, r.Min.Y+c.line)}, {image.Pt(r.Min.X, r.Max.Y-c.line), r.Max},
		{r.Min, image.Pt(r.Min.X+c.line, r.Max.Y)}, {image.Pt(r.Max.X-c.line, r.Min.Y), r.Max},
	} {
		draw.Draw(c.img, side, image.NewUniform(paint), image.Point{}, draw.Src)
	}
	text := label(it)
	size := c.measure(text)
	at := image.Pt(min(r.Min.X, c.img.Rect.Max.X-size.X), r.Min.Y-size.Y)
	if at.Y < 0 {
		at.Y = r.Min.Y
	}
	at.X = max(at.X, 0)
	draw.Draw(c.img, image.Rectangle{at, at.Add(size)}, image.NewUniform(paint), image.Point{}, draw.Src)
	c.write(text, at, readableOn(paint))
}

// caption draws labels in a dark band at the foot of the picture, the best on
// top. It gets them the best last.
func (c *canvas) caption(items []wire.Item) {
	if len(items) == 0 {
		return
	}
	height := c.measure("M").Y
	lines := min(len(items), max(1, c.img.Rect.Dy()/3/height))
	items = items[len(items)-lines:]
	slices.Reverse(items)
	top := c.img.Rect.Max.Y - lines*height - c.pad
	band := image.Rect(0, top, c.img.Rect.Max.X, c.img.Rect.Max.Y)
	draw.Draw(c.img, band, image.NewUniform(color.RGBA{A: 170}), image.Point{}, draw.Over)
	for i, it := range items {
		y := top + c.pad/2 + i*height
		bar := image.Rect(0, y, int(min(max(it.Score, 0), 1)*float32(c.img.Rect.Max.X)), y+height-c.pad/2)
		draw.Draw(c.img, bar, image.NewUniform(color.RGBA{R: 20, G: 70, B: 90, A: 130}), image.Point{}, draw.Over)
		c.write(label(it), image.Pt(c.pad, y), color.White)
	}
}

func label(it wire.Item) string { return fmt.Sprintf("%.60s %.2f", cmp.Or(it.Label, "?"), it.Score) }

// measure is the size of a label with its padding.
func (c *canvas) measure(text string) image.Point {
	m := c.face.Metrics()
	return image.Pt(font.MeasureString(c.face, text).Ceil()+2*c.pad, (m.Ascent+m.Descent).Ceil()+c.pad)
}

// write puts a label's letters with its upper left corner at a point.
func (c *canvas) write(text string, at image.Point, paint color.Color) {
	base := at.Y + c.pad/2 + c.face.Metrics().Ascent.Ceil()
	d := font.Drawer{Dst: c.img, Src: image.NewUniform(paint), Face: c.face, Dot: fixed.P(at.X+c.pad, base)}
	d.DrawString(text)
}

// colourOf gives classes that are near each other colours that are not.
func colourOf(id int) color.RGBA {
	return [...]color.RGBA{
		{0xff, 0xd1, 0x66, 0xff}, {0x06, 0xd6, 0xa0, 0xff}, {0xef, 0x47, 0x6f, 0xff}, {0x4c, 0xc9, 0xf0, 0xff}, {0xf7, 0x7f, 0x00, 0xff},
		{0xb5, 0x8b, 0xff, 0xff}, {0xa7, 0xe1, 0x3b, 0xff}, {0xff, 0x8f, 0xc7, 0xff}, {0x2f, 0x6b, 0xff, 0xff}, {0xff, 0xff, 0xff, 0xff},
	}[uint(id)%10]
}

// readableOn is black on light colours and white on dark ones.
func readableOn(c color.RGBA) color.Color {
	if 299*int(c.R)+587*int(c.G)+114*int(c.B) > 128_000 {
		return color.Black
	}
	return color.White
}
