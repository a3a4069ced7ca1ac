package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/fleet/link/mqtt"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/jpeg"
	"github.com/covey-edge/covey/hal/source/alsa"
	"github.com/covey-edge/covey/hal/source/exec"
	"github.com/covey-edge/covey/hal/source/folder"
	"github.com/covey-edge/covey/hal/source/gpio"
	"github.com/covey-edge/covey/hal/source/iio"
	"github.com/covey-edge/covey/hal/source/mjpeg"
	sourcemqtt "github.com/covey-edge/covey/hal/source/mqtt"
	"github.com/covey-edge/covey/hal/source/numbers"
	"github.com/covey-edge/covey/hal/source/serial"
	"github.com/covey-edge/covey/hal/source/synthetic"
	"github.com/covey-edge/covey/hal/source/v4l2"
	"github.com/covey-edge/covey/hal/source/wav"
)

// A sources opens what pipelines read: the only place that knows which there are.
type sources struct {
	jpeg hal.Engine                 // decodes pictures; nil: the agent does
	home func(n uint64) mqtt.Config // of connection n to the house's broker; nil: there is no house
	log  zerolog.Logger

	connections atomic.Uint64
}

// open opens a source.
func (all *sources) open(ctx context.Context, s agent.SourceFile) (hal.Source, error) {
	password, err := s.Password()
	if err != nil {
		return nil, err
	}
	switch s.Type {
	case "synthetic":
		return synthetic.New(synthetic.Config{Width: s.Width, Height: s.Height, FPS: s.FPS, Count: s.Count, Live: s.Live})
	case "wav":
		channels, err := indices(s.Channels)
		if err != nil {
			return nil, err
		}
		return wav.Open(wav.Config{Path: s.Path, Window: s.Window, Hop: s.Hop, Rate: int(s.Rate), Channels: channels, Loop: s.Loop, Live: s.Live})
	case "alsa":
		channels, err := indices(s.Channels)
		if err != nil {
			return nil, err
		}
		return alsa.Open(ctx, alsa.Config{Device: s.Device, Rate: int(s.Rate), Channels: channels, Window: s.Window, Hop: s.Hop})
	case "iio":
		return iio.Open(iio.Config{Device: s.Device, Channels: s.Channels, Rate: s.Rate, Window: s.Window, Hop: s.Hop})
	case "serial":
		return serial.Open(serial.Config{Device: s.Device, Baud: s.Baud, Format: numbers.Format(s.Format), Channels: s.Channels,
			Window: s.Window, Hop: s.Hop, Quiet: s.Quiet})
	case "gpio":
		return gpio.Open(gpio.Config{Device: s.Device, Lines: s.Channels, Bias: gpio.Bias(s.Bias), ActiveLow: s.Low, Debounce: s.Debounce})
	}
	return all.decoding(func(decode decodeFunc) (hal.Source, error) {
		switch s.Type {
		case "folder":
			return folder.Open(folder.Config{Path: s.Path, Loop: s.Loop, Watch: s.Watch, FPS: s.FPS, Decode: decode})
		case "v4l2":
			return v4l2.Open(v4l2.Config{Device: s.Device, Format: s.Format, Width: s.Width, Height: s.Height, FPS: s.FPS,
				Controls: s.Controls, Decode: decode})
		case "mjpeg":
			return mjpeg.Open(ctx, mjpeg.Config{URL: s.URL, User: s.User, Password: password, CAFile: s.CA, FPS: s.FPS, Decode: decode})
		case "rtsp":
			c, err := exec.RTSP(ctx, exec.Camera{URL: s.URL, User: s.User, Password: password, Width: s.Width, Height: s.Height, FPS: s.FPS})
			return all.run(ctx, c, err, decode)
		case "csi":
			c, err := exec.CSI(os.DirFS("/"), exec.Port{Camera: s.Camera, Width: s.Width, Height: s.Height, FPS: s.FPS})
			return all.run(ctx, c, err, decode)
		case "exec":
			return all.run(ctx, exec.Config{Program: s.Command, Format: exec.Format(s.Format), Width: s.Width, Height: s.Height, FPS: s.FPS}, nil, decode)
		case "mqtt":
			c := sourcemqtt.Config{Subscribe: all.subscribe, Topic: s.Topic, Quiet: s.Quiet, Decode: decode}
			if s.Samples() {
				c.Numbers = &sourcemqtt.Numbers{Format: numbers.Format(s.Format), Channels: s.Channels, Window: s.Window, Hop: s.Hop}
			}
			return sourcemqtt.Open(ctx, c)
		}
		return nil, &hal.Error{Code: hal.CodeConfig, Text: "no source of type " + s.Type}
	})
}

func (all *sources) run(ctx context.Context, c exec.Config, err error, decode decodeFunc) (hal.Source, error) {
	if err != nil {
		return nil, err
	}
	c.Decode, c.Log = decode, func(line string) { all.log.Debug().Str("program", c.Name).Msg(line) }
	return exec.Open(ctx, c)
}

type decodeFunc func([]byte, *hal.Frame) error

// decoding opens a source of pictures with a decoder of its own, which ends with it.
func (all *sources) decoding(open func(decodeFunc) (hal.Source, error)) (hal.Source, error) {
	if all.jpeg == nil {
		return open(nil)
	}
	d := jpeg.New(all.jpeg, jpeg.Most)
	s, err := open(d.Decode)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return &decoded{s, d}, nil
}

type decoded struct {
	hal.Source
	decoder io.Closer
}

// Close closes the source, and then its decoder.
func (d *decoded) Close() error { return errors.Join(d.Source.Close(), d.decoder.Close()) }

// connecting is how long the house's broker may take.
const connecting = 15 * time.Second

// subscribe listens to a topic of the house, on a connection of its own.
func (all *sources) subscribe(ctx context.Context, topic string, got func([]byte)) (func(), error) {
	if all.home == nil {
		return nil, &hal.Error{Code: hal.CodeSource, Text: `a source of type mqtt needs the house's broker: add "home: {broker: …}" to the configuration`}
	}
	link, err := mqtt.New(all.home(all.connections.Add(1)))
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	up, down := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		defer close(ended)
		err := link.Run(running, wire.Spec{
			Subscribe: []wire.Subscription{{Filter: topic, QoS: 0}},
			Up:        func() { offer(up, struct{}{}) },
			Down:      func(err error) { offer(down, err) },
			Receive: func(m wire.Message) error {
				if !m.Retain { // nobody knows how old it is
					got(m.Payload)
				}
				return nil
			},
		})
		if err != nil {
			offer(down, err)
		}
	}()
	end := func() { stop(); <-ended }
	timer := time.NewTimer(connecting)
	defer timer.Stop()
	select {
	case <-up:
		return end, nil
	case err = <-down:
	case <-timer.C:
		err = errors.New("it does not answer")
	case <-ctx.Done():
		err = ctx.Err()
	}
	end()
	return nil, &hal.Error{Code: hal.CodeSource, Text: fmt.Sprintf("topic %s of the house's broker: %v", topic, err), Err: err}
}

// offer puts a value where somebody may wait for it.
func offer[T any](to chan T, v T) {
	select {
	case to <- v:
	default:
	}
}

// indices are channels by number.
func indices(names []string) ([]int, error) {
	var list []int
	for _, name := range names {
		n, err := strconv.Atoi(name)
		if err != nil || n < 0 {
			return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("channel %q: channels of sound are numbered from 0", name)}
		}
		list = append(list, n)
	}
	return list, nil
}

// inputs is everything that is plugged in under root and can be a source. A camera on
// the board's own connector shows twice, by its sensor and by the node of its raw data;
// it is listed by the sensor, which says what it is.
func inputs(root fs.FS) []hal.Input {
	cameras, own := v4l2.Probe(root), exec.Probe(root)
	if len(own) > 0 {
		cameras = slices.DeleteFunc(cameras, func(i hal.Input) bool { return i.Source == "csi" })
	}
	return slices.Concat(cameras, own, alsa.Probe(root), iio.Probe(root), serial.Probe(root), gpio.Probe(root))
}
