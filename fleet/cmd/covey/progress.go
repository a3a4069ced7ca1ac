package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// decode reads one JSON answer.
func decode(r io.Reader, v any) error {
	return json.NewDecoder(io.LimitReader(r, maxAnswer)).Decode(v)
}

// A bar shows how far an upload is, on a terminal only. It belongs to one
// goroutine at a time.
type bar struct {
	a           *app
	name        string
	done, total int64
	began, last time.Time
}

// redraw is how often a bar is drawn at most.
const redraw = 100 * time.Millisecond

func (a *app) bar(name string, total int64) *bar {
	return &bar{a: a, name: clean(name), total: total, began: a.now()}
}

func (b *bar) add(n int64) {
	b.done += n
	if now := b.a.now(); b.a.live && now.Sub(b.last) >= redraw {
		b.last = now
		b.draw()
	}
}

func (b *bar) draw() {
	const width = 24
	full := width
	if b.total > 0 {
		full = int(min(b.done, b.total) * width / b.total)
	}
	rate := ""
	if s := b.a.now().Sub(b.began).Seconds(); s > 0.5 {
		rate = size(int64(float64(b.done)/s)) + "/s"
	}
	fmt.Fprintf(b.a.err, "\r%-28.28s %s%s %s of %s %s\x1b[K", b.name, strings.Repeat("█", full), strings.Repeat("░", width-full), size(b.done), size(b.total), rate)
}

// end leaves the line as it is at last.
func (b *bar) end() {
	if b.a.live {
		b.draw()
		fmt.Fprintln(b.a.err)
	}
}

// counted tells a bar what was read.
type counted struct {
	io.Reader
	bar *bar
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.bar.add(int64(n))
	return n, err
}
