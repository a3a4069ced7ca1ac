package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/uplink"
	"github.com/covey-edge/covey/hal"
)

// Which way files come, and what happens where one does not get on.
func TestTransfer(t *testing.T) {
	slow := &hal.Error{Code: hal.CodeTimeout, Text: "slow"}
	absent := &hal.Error{Code: hal.CodeTimeout, Text: "absent", Err: uplink.ErrNoConnection}
	unreachable := fmt.Errorf("dial: %w", uplink.ErrNoConnection)
	broken := errors.New("disk")
	for _, c := range []struct {
		how         string
		mqtt, https []error // of one call after the other; the last of all further ones
		ways        string
		want        error
	}{
		{transferAuto, []error{nil}, nil, "m", nil},
		{transferAuto, []error{broken}, nil, "m", broken},
		{transferAuto, []error{slow}, []error{nil}, "mh", nil},
		{transferAuto, []error{slow}, []error{broken}, "mh", broken},
		{transferAuto, []error{slow}, []error{slow}, "mh", slow},
		{transferAuto, []error{slow}, []error{unreachable}, "mh", slow},
		{transferAuto, []error{absent, absent, nil}, []error{unreachable}, "mhmhm", nil},
		{transferAuto, []error{absent}, []error{unreachable, nil}, "mhmh", nil},
		{transferMQTT, []error{slow}, nil, "m", slow},
		{transferMQTT, []error{nil}, nil, "m", nil},
		{transferHTTPS, nil, []error{nil}, "h", nil},
		{transferHTTPS, nil, []error{slow}, "h", slow},
		{transferHTTPS, nil, []error{unreachable, unreachable, nil}, "hhh", nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			var ways strings.Builder
			call := func(way string, errs []error) func() error {
				n := 0
				return func() error {
					ways.WriteString(way)
					n++
					return errs[min(n, len(errs))-1]
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			err := transfer(ctx, c.how, call("m", c.mqtt), call("h", c.https), zerolog.Nop())
			if !errors.Is(err, c.want) || ways.String() != c.ways {
				t.Errorf("%s with %v and %v: went %s and got %v, want %s and %v", c.how, c.mqtt, c.https, ways.String(), err, c.ways, c.want)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		err := transfer(ctx, transferHTTPS, nil, func() error { return unreachable }, zerolog.Nop())
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after an hour without a network: %v", err)
		}
	})
}
