package agent

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/update"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/source"
)

// hang is how long a live source may take over one frame; what is slower by its
// nature says so with its rate.
const hang = time.Minute

// keep makes a source that goes on when it breaks. Why there are no frames is in
// trouble, which is nil while there are; busy is told how long it may be silent.
func keep(open func(context.Context, SourceFile) (hal.Source, error), f SourceFile, trouble *atomic.Pointer[wire.Fault], busy func(time.Duration), log zerolog.Logger) *source.Kept {
	c := source.Config{
		Open: func(ctx context.Context) (hal.Source, error) { return open(ctx, f) },
		Live: f.Live,
		Busy: busy,
		Changed: func(s source.Status) {
			if s.Fault == nil {
				trouble.Store(nil)
				log.Info().Stringer("state", s.State).Msg("source")
				return
			}
			trouble.Store(update.FaultOf(s.Fault))
			log.Error().Err(s.Fault).Stringer("state", s.State).Dur("again", s.Again).Msg("source gives no frames")
		},
	}
	// Sensors that speak when something changes may be silent for ever.
	if patient := f.Type == "gpio" || f.Type == "serial" || f.Type == "mqtt"; f.Live && !patient {
		c.Hang = hang
		if f.FPS > 0 {
			c.Hang = max(hang, time.Duration(10/f.FPS*float64(time.Second)))
		}
	}
	return source.Keep(c)
}
