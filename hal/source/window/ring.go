// Package window cuts a stream of samples into windows: a window is so many
// samples of every channel, and the next one begins a hop later.
package window

import (
	"fmt"
	"time"

	"github.com/covey-edge/covey/hal"
)

// Most is how many samples, of all channels together, a window or a hop may have:
// six minutes of sound at 48 kHz.
const Most = 1 << 24

// MostChannels is how many channels a window may have.
const MostChannels = 256

// A Ring takes samples as they come and gives windows. It is used by one goroutine
// at a time. When more comes than is taken, the oldest windows are dropped and
// counted; a Ring whose Next has said false has room for as many samples as a
// window or a hop has, whichever is longer.
type Ring struct {
	// Rate is samples a second and channel; 0 when they come as they come. It is set
	// before the first Push.
	Rate float64

	channels    int
	wish        [2]int // window and hop that New was given
	window, hop int    // in use; 0 until the first Next, where New was given none
	// Positions count samples of a channel since the begin. The sample at p is in buf
	// at p % size.
	size       int
	start, end int64 // where the next window begins, where the next sample goes
	cut        int64 // where the last window ended: what is before was given or dropped
	buf        []float32
	marks      []mark // times of what has not been given yet, oldest first
	seq        uint64
	dropped    uint64
}

// A mark is the time of the sample before a position.
type mark struct {
	end int64
	at  time.Time
}

// New makes a Ring of windows of so many samples a channel, one every hop. Window 0
// is as many as the caller of Next wants; where he has no wish, a second, or one
// sample when they come as they come. Hop 0 is a whole window. Sizes that make no
// sense are E_CONFIG.
func New(channels, window, hop int) (*Ring, error) {
	if channels < 1 || channels > MostChannels {
		return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("samples of %d channels: give 1 to %d", channels, MostChannels)}
	}
	if most := Most / channels; window < 0 || window > most || hop < 0 || hop > most {
		return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf(
			"window of %d samples of %d channels with a hop of %d: give 1 to %d", window, channels, hop, most)}
	}
	r := &Ring{channels: channels, wish: [2]int{window, hop}}
	if window > 0 {
		r.resize(window)
	}
	return r, nil
}

// resize begins anew with windows of another size.
func (r *Ring) resize(window int) {
	r.window, r.hop = window, r.wish[1]
	if r.hop == 0 {
		r.hop = window
	}
	r.size = 2 * max(r.window, r.hop)
	r.buf = make([]float32, r.size*r.channels)
	r.Clear()
}

// fit gives windows the size that the caller of Next wants, where New was given none.
func (r *Ring) fit(want int) {
	if r.wish[0] > 0 {
		return
	}
	if want <= 0 {
		want = max(1, int(r.Rate+.5))
	}
	if want = min(want, Most/r.channels); want != r.window {
		r.resize(want)
	}
}

// Room is how many samples of each channel may be pushed without dropping any; 0
// while the size of windows is not known.
func (r *Ring) Room() int { return r.size - int(r.end-r.start) }

// Push adds samples of all channels in turns, the last of which was taken at the
// time at. What is left over behind the last whole sample is ignored, and so is what
// comes before the size of windows is known.
func (r *Ring) Push(samples []float32, at time.Time) {
	n := len(samples) / r.channels
	if n == 0 || r.size == 0 {
		return
	}
	if over := r.end + int64(n) - r.start - int64(r.size); over > 0 {
		r.skip((over + int64(r.hop) - 1) / int64(r.hop))
	}
	samples = samples[:n*r.channels]
	if n > r.size {
		samples = samples[(n-r.size)*r.channels:]
	}
	r.end += int64(n)
	first := (r.end - int64(len(samples)/r.channels)) % int64(r.size)
	k := copy(r.buf[int(first)*r.channels:], samples)
	copy(r.buf, samples[k:])
	r.marks = append(r.marks, mark{r.end, at})
	r.forget()
}

// skip drops windows.
func (r *Ring) skip(windows int64) {
	r.dropped += uint64(windows)
	r.cut = r.start + (windows-1)*int64(r.hop) + int64(r.window)
	r.start += windows * int64(r.hop)
	r.forget()
}

// forget removes the marks that no coming window needs, those before the last
// sample of the next one; but for the last mark, which Pad needs.
func (r *Ring) forget() {
	last, n := r.start+int64(r.window), 0
	for n+1 < len(r.marks) && r.marks[n].end < last {
		n++
	}
	r.marks = r.marks[:copy(r.marks, r.marks[n:])]
}

// Next writes the oldest window into f, reusing f.Samples; false when there is no
// whole one. It sets all that a frame of samples has but Name. Where New was given no
// window, a wish in f that differs from the one before begins anew.
func (r *Ring) Next(f *hal.Frame) bool {
	r.fit(f.Want.Samples)
	last := r.start + int64(r.window)
	if r.end < last {
		return false
	}
	r.seq++
	f.Seq, f.Captured = r.seq, r.when(last)
	f.Format, f.Channels, f.Rate = hal.FormatNone, r.channels, r.Rate
	from, n := int(r.start%int64(r.size))*r.channels, r.window*r.channels
	head := r.buf[from:min(from+n, len(r.buf))]
	f.Samples = append(f.Samples[:0], head...)
	f.Samples = append(f.Samples, r.buf[:n-len(head)]...)
	r.cut = last
	r.start += int64(r.hop)
	r.forget()
	return true
}

// when is the time of the sample before end: that of the push that brought it, less
// what came behind it in the same push.
func (r *Ring) when(end int64) time.Time {
	for _, m := range r.marks {
		if m.end < end {
			continue
		}
		if r.Rate > 0 {
			return m.at.Add(-time.Duration(float64(m.end-end) / r.Rate * float64(time.Second)))
		}
		return m.at
	}
	return time.Time{} // not reached: Push marks all that it adds
}

// Pad fills what has come since the last window with zeros to a whole one, as at
// the end of a file. It does nothing when nothing is left over, or Next has not
// said false yet.
func (r *Ring) Pad() {
	if r.end <= max(r.cut, r.start) || r.end >= r.start+int64(r.window) {
		return
	}
	at := r.marks[len(r.marks)-1].at
	silence := make([]float32, int(r.start+int64(r.window)-r.end)*r.channels)
	r.Push(silence, at)
}

// Clear forgets what has not been given: the stream was interrupted, and what
// comes next does not continue it.
func (r *Ring) Clear() {
	r.start, r.cut = r.end, r.end
	r.marks = r.marks[:0]
}

// Dropped is how many windows were not given because nobody took them in time.
func (r *Ring) Dropped() uint64 { return r.dropped }
