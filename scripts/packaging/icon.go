package main

import (
	"image"
	"image/color"
	"image/png"
	"io"
)

// icon writes the picture that stands for Covey, three birds on the ground, of any size.
func icon(out io.Writer, width, height int) error {
	const fine = 4 // samples of a pixel each way, for smooth edges
	picture := image.NewNRGBA(image.Rect(0, 0, width, height))
	unit := float64(min(width, height))
	for y := range height {
		for x := range width {
			var r, g, b int
			for i := range fine * fine {
				// 0, 0 is the middle; the shorter side goes from −0.5 to 0.5.
				px := (float64(x) + (float64(i%fine)+0.5)/fine - float64(width)/2) / unit
				py := (float64(y) + (float64(i/fine)+0.5)/fine - float64(height)/2) / unit
				c := at(px, py)
				r, g, b = r+int(c.R), g+int(c.G), b+int(c.B)
			}
			n := fine * fine
			picture.SetNRGBA(x, y, color.NRGBA{uint8(r / n), uint8(g / n), uint8(b / n), 255})
		}
	}
	return (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(out, picture)
}

// at is the colour of a point.
func at(x, y float64) color.NRGBA {
	colour := color.NRGBA{0x1f, 0x5f, 0x5b, 255}
	if y > 0.22 {
		colour = color.NRGBA{0x17, 0x46, 0x43, 255}
	}
	for _, bird := range []struct{ x, y, size float64 }{{-0.22, 0.02, 0.8}, {0.2, -0.06, 0.7}, {0.02, 0.12, 1}} {
		u, v := (x-bird.x)/bird.size, (y-bird.y)/bird.size
		body, head := u*u/0.032+v*v/0.02 < 1, (u-0.15)*(u-0.15)+(v+0.13)*(v+0.13) < 0.0055
		beak := u > 0.2 && u < 0.27 && v+0.13 < (0.27-u)/2 && v+0.13 > (u-0.27)/2
		switch {
		case (u-0.165)*(u-0.165)+(v+0.145)*(v+0.145) < 0.0003:
			colour = color.NRGBA{0x17, 0x46, 0x43, 255}
		case beak:
			colour = color.NRGBA{0xe8, 0x8b, 0x2e, 255}
		case body || head:
			colour = color.NRGBA{0xf2, 0xe6, 0xcf, 255}
		}
	}
	return colour
}
