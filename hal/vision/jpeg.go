package vision

import "encoding/binary"

// A JPEG is what a JPEG file says about itself before its data begin.
type JPEG struct {
	Width, Height int  // as stored
	Progressive   bool // or one of the rarer ways that need the whole picture in memory
	Tables        bool // it has Huffman tables; false: the usual ones are meant
	Orientation   int  // how the camera was held: the EXIF number from 1 (upright) to 8
}

// Turned says whether width and height change places when the picture is upright.
func (j JPEG) Turned() bool { return j.Orientation >= 5 }

// InspectJPEG reads the segments of a file up to its data, and never past it. ok is
// false for what is no JPEG, or none that is plain enough to be understood here.
func InspectJPEG(b []byte) (j JPEG, ok bool) {
	const (
		soi, sos, app1 = 0xd8, 0xda, 0xe1
		rst0, eoi, tem = 0xd0, 0xd9, 0x01 // from RST0 to EOI, and TEM, they have no length
		dht, jpg, dac  = 0xc4, 0xc8, 0xcc // lie among the frame headers, SOF0 to SOF15
	)
	j.Orientation = 1
	if len(b) < 2 || b[0] != 0xff || b[1] != soi {
		return j, false
	}
	for b = b[2:]; len(b) >= 4 && b[0] == 0xff; {
		marker, n := b[1], 2+int(binary.BigEndian.Uint16(b[2:]))
		if marker == 0xff { // any number may fill up
			b = b[1:]
			continue
		}
		if marker == sos || marker >= rst0 && marker <= eoi || marker == tem || n < 4 || n > len(b) {
			break
		}
		switch segment := b[4:n]; {
		case marker == dht:
			j.Tables = true
		case marker == app1 && j.Orientation == 1 && len(segment) > 6 && string(segment[:6]) == "Exif\x00\x00":
			j.Orientation = tiffOrientation(segment[6:])
		case marker&0xf0 == 0xc0 && marker != jpg && marker != dac && len(segment) >= 5 && !ok:
			j.Progressive = marker != 0xc0 && marker != 0xc1
			j.Height, j.Width = int(binary.BigEndian.Uint16(segment[1:])), int(binary.BigEndian.Uint16(segment[3:]))
			ok = j.Width > 0 && j.Height > 0
		}
		b = b[n:]
	}
	return j, ok
}
