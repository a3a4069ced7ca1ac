package sim

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/firmware"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/link/mem"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

// A Board is a board that can be switched on and off. Its disk outlives that.
type Board struct {
	ID        wire.DeviceID
	Dir       string // its disk
	Broker    *mem.Broker
	TrustRoot string
	FPS       float64
	Log       zerolog.Logger

	stop  context.CancelFunc
	ended chan error
}

// On starts the agent, with one pipeline, cam, whose model is the fleet's to choose.
func (b *Board) On(ctx context.Context) error {
	if err := os.MkdirAll(b.Dir, 0o700); err != nil {
		return err
	}
	ctx, b.stop = context.WithCancel(ctx)
	b.ended = make(chan error, 1)
	id := string(b.ID)
	c := agent.Config{
		File:   &agent.File{Data: filepath.Join(b.Dir, "agent"), Pipelines: []agent.PipelineFile{{Name: Pipeline, Source: agent.SourceFile{Type: "synthetic", FPS: b.FPS}}}},
		Device: b.ID, Version: "sim", FS: blob.OS{}, Engines: []hal.Engine{newEngine()},
		Source: func(_ context.Context, s agent.SourceFile) (hal.Source, error) {
			return &haltest.FakeSource{Every: time.Duration(float64(time.Second) / s.FPS)}, nil
		},
		Fleet: &agent.FleetLink{Link: b.Broker.Link(id, false), Bulk: func() wire.Link { return b.Broker.Link(id+"~x", true) },
			Root: "covey", MachineID: id},
		Board: firmware.Board{Name: "sim", RAM: 1 << 30, CPUs: 2}, TrustRoot: b.TrustRoot, Log: b.Log,
	}
	go func() { b.ended <- agent.Run(ctx, c) }()
	return nil
}

// Off stops the agent, and waits for its end.
func (b *Board) Off() error {
	b.stop()
	return <-b.ended
}

// Pipeline is the name of the one that each board has.
const Pipeline = "cam"
