package wav

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/covey-edge/covey/hal/signal"
	"github.com/covey-edge/covey/hal/source/window"
)

// A header is what a file says of its sound before it begins.
type header struct {
	pcm      signal.PCM
	channels int
	rate     int
	length   int64 // of sound, bytes; -1: until the end of the file
}

// Bounds of a file's rate, and of the chunks that may stand before the sound.
const (
	mostRate   = 1 << 20
	mostChunks = 1 << 10
)

// whole is a size that says: not known. It stands in the files of programs that
// write to a pipe, and in RF64, where a chunk ds64 has the size.
const whole = 1<<32 - 1

// readHeader reads up to the first sample: RIFF, RF64 (EBU Tech 3306) or BW64 (ITU-R
// BS.2088), chunks in any order.
func readHeader(r io.Reader) (header, error) {
	var b [12]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return header{}, cut(err)
	}
	kind, riff := string(b[:4]), int64(binary.LittleEndian.Uint32(b[4:]))
	if kind != "RIFF" && kind != "RF64" && kind != "BW64" || string(b[8:]) != "WAVE" {
		return header{}, errors.New("not a WAV file")
	}
	var h header
	at, long := int64(12), int64(-1)
	for range mostChunks {
		if _, err := io.ReadFull(r, b[:8]); err != nil {
			return header{}, cut(err)
		}
		id, size := string(b[:4]), int64(binary.LittleEndian.Uint32(b[4:]))
		at += 8
		if id == "data" {
			if h.pcm == signal.PCMNone {
				return header{}, errors.New("its sound comes before its format")
			}
			h.length = dataSize(size, long, riff+8 > at && riff != whole)
			return h, nil
		}
		var body [40]byte
		n := 0
		if id == "fmt " || id == "ds64" {
			n = int(min(size, int64(len(body))))
		}
		if _, err := io.ReadFull(r, body[:n]); err != nil {
			return header{}, cut(err)
		}
		rest := size + size&1 - int64(n) // chunks begin at even places
		if k, err := io.CopyN(io.Discard, r, rest); k < rest {
			return header{}, cut(err)
		}
		at += size + size&1
		switch {
		case id == "fmt ":
			if err := h.format(body[:n]); err != nil {
				return header{}, err
			}
		case id == "ds64" && n >= 16:
			long = int64(binary.LittleEndian.Uint64(body[8:]) &^ (1 << 63))
		}
	}
	return header{}, fmt.Errorf("no sound in its first %d chunks", mostChunks)
}

// dataSize is the bytes of sound. A program that could not go back to write the
// size has left 0 or all ones; 0 is true when the file says that more follows.
func dataSize(size, long int64, more bool) int64 {
	switch {
	case size == whole && long >= 0:
		return long
	case size == whole || size == 0 && !more:
		return -1
	}
	return size
}

func cut(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errors.New("it ends before its sound begins")
	}
	return err
}

// Tags of formats.
const (
	tagPCM        = 1
	tagFloat      = 3
	tagExtensible = 0xfffe
)

// extensible is how a subformat ends that is a tag (KSDATAFORMAT_SUBTYPE).
const extensible = "\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"

// format reads a chunk fmt: WAVEFORMAT, WAVEFORMATEX or WAVEFORMATEXTENSIBLE.
func (h *header) format(b []byte) error {
	if len(b) < 16 {
		return errors.New("its format is cut short")
	}
	tag := int(binary.LittleEndian.Uint16(b))
	h.channels = int(binary.LittleEndian.Uint16(b[2:]))
	rate := binary.LittleEndian.Uint32(b[4:])
	align, bits := int(binary.LittleEndian.Uint16(b[12:])), int(binary.LittleEndian.Uint16(b[14:]))
	if tag == tagExtensible && len(b) == 40 && string(b[26:]) == extensible {
		tag = int(binary.LittleEndian.Uint16(b[24:]))
	}
	h.pcm = encoding(tag, bits)
	switch {
	case h.pcm == signal.PCMNone:
		return fmt.Errorf("its samples are of format %#x with %d bits: make it PCM of 8, 16, 24 or 32 bits or float", tag, bits)
	case h.channels < 1 || h.channels > window.MostChannels:
		return fmt.Errorf("it has %d channels: 1 to %d can be read", h.channels, window.MostChannels)
	case rate < 1 || rate > mostRate:
		return fmt.Errorf("it has %d samples a second: 1 to %d can be read", rate, mostRate)
	case align != h.channels*h.pcm.Size():
		return fmt.Errorf("it contradicts itself: %d bytes for %d channels of %d bits", align, h.channels, bits)
	}
	h.rate = int(rate)
	return nil
}

// encoding is how samples are stored. Fewer bits than the bytes have, as in sound
// of 20 bits, stand at the upper end, so that the bytes count.
func encoding(tag, bits int) signal.PCM {
	switch size := (bits + 7) / 8; {
	case tag == tagPCM && size == 1:
		return signal.PCMUint8
	case tag == tagPCM && size == 2:
		return signal.PCMInt16
	case tag == tagPCM && size == 3:
		return signal.PCMInt24
	case tag == tagPCM && size == 4:
		return signal.PCMInt32
	case tag == tagFloat && bits == 32:
		return signal.PCMFloat32
	case tag == tagFloat && bits == 64:
		return signal.PCMFloat64
	}
	return signal.PCMNone
}
