package main

import (
	"context"
	"strings"
	"time"
)

const (
	linkRate  = 100e6 / 8             // bytes a second
	linkDelay = 25 * time.Millisecond // one way
	linkCuts  = 3
	linkSize  = 128 << 20 // bytes: eleven seconds of it
	blockSize = 64 << 10
)

// link updates a board over a link of 100 Mbit/s and 50 ms that is cut three times, and
// copies as much over the same link by plain TCP, cut as often.
func (b *bench) link(ctx context.Context) ([]row, error) {
	f, err := b.startFleet(ctx, func(broker string) (*shaper, error) { return newShaper(broker, linkRate, linkDelay) })
	if err != nil {
		return nil, err
	}
	defer f.stop()
	server, err := servePlain(linkSize)
	if err != nil {
		return nil, err
	}
	defer server.Close()
	plain, err := newShaper(server.Addr().String(), linkRate, linkDelay)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	var share, again []float64
	for round := range b.rounds {
		b.progress("link", round)
		size, err := f.push(ctx, round+2, linkSize)
		if err != nil {
			return nil, err
		}
		stop := plain.cuts(linkCuts, size)
		copied, err := plain.copyPlain(size)
		stop()
		if err != nil {
			return nil, err
		}
		before := f.link.down.Load()
		stop = f.link.cuts(linkCuts, size)
		_, err = f.swap(ctx, round+2)
		stop()
		if err != nil {
			return nil, err
		}
		took, err := f.downloadTime()
		if err != nil {
			return nil, err
		}
		share = append(share, copied.Seconds()/took.Seconds())
		again = append(again, float64(f.link.down.Load()-before-int64(size))/blockSize/linkCuts)
	}
	return []row{
		measured("update over 100 Mbit/s, 50 ms, 3 cuts / plain TCP copy, cut as often", "ratio", share, atLeast(0.95)),
		measured("update over that link: what came beyond the file, TLS and all else, blocks a cut", "blocks", again, atMost(1)),
	}, nil
}

// mqtts is a shaper's address as an agent's configuration has it.
func (s *shaper) mqtts() string { return "mqtts://" + s.Addr().String() }

func hostOf(broker string) string { return strings.TrimPrefix(broker, "tls://") }
