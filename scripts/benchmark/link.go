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
	linkSize  = 128 << 20        // bytes: eleven seconds of it
	linkIdle  = 10 * time.Second // of results to hold those of the download against
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
	var share, again, p50, p99 []float64
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
		idle, err := f.idle(ctx, linkIdle)
		if err != nil {
			return nil, err
		}
		before := f.link.down.Load()
		stop = f.link.cuts(linkCuts, size)
		seen, err := f.swap(ctx, round+2)
		stop()
		if err != nil {
			return nil, err
		}
		from, to, err := f.download()
		if err != nil {
			return nil, err
		}
		share = append(share, copied.Seconds()/to.Sub(from).Seconds())
		quiet, busy := latencies(idle, time.Time{}, from), latencies(seen, from, to)
		p50 = append(p50, percentile(busy, 50)/percentile(quiet, 50))
		p99 = append(p99, percentile(busy, 99)/percentile(quiet, 99))
		again = append(again, (float64(f.link.down.Load()-before)-framed(size))/blockSize/linkCuts)
	}
	return []row{
		measured("update over 100 Mbit/s, 50 ms, 3 cuts / plain TCP copy, cut as often", "ratio", share, atLeast(0.95)),
		measured("update over that link: what came again, blocks a cut", "blocks", again, atMost(1)),
		measured("frame p50 while that downloads / idle, 50 fps", "ratio", p50, atMost(1.25)),
		measured("frame p99 while that downloads / idle, 50 fps", "ratio", p99, atMost(1.25)),
	}, nil
}

// framed is how many bytes a file of that size makes on its way without a cut: its blocks
// in MQTT and TLS, and their hashes in the manifest.
func framed(size int) float64 {
	blocks := float64(size) / blockSize
	return (float64(size) + blocks*(64+32*4/3)) * (1 + 22.0/(16<<10))
}

// mqtts is a shaper's address as an agent's configuration has it.
func (s *shaper) mqtts() string { return "mqtts://" + s.Addr().String() }

func hostOf(broker string) string { return strings.TrimPrefix(broker, "tls://") }
