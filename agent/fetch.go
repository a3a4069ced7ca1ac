package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/update"
	"github.com/covey-edge/covey/agent/internal/uplink"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// Ways for files to come from the controller.
const (
	transferAuto  = "auto" // over MQTT, and where that does not get on, over HTTPS
	transferMQTT  = "mqtt"
	transferHTTPS = "https"
)

// offlineWait is about how long a board that reaches nobody waits before it tries
// HTTPS again.
const offlineWait = 30 * time.Second

// A fetcher brings an update its blobs from the controller.
type fetcher struct{ a *agent }

// Fetch fetches a blob the way that the configuration says. That the controller does
// not give it is final; that it gives other bytes than were promised has a code, too.
func (f fetcher) Fetch(ctx context.Context, sha wire.Digest, p update.Partial) error {
	err := f.fetch(ctx, sha, p)
	if errors.Is(err, uplink.ErrGone) {
		return &hal.Error{Code: hal.CodeFetch, Text: err.Error(), Err: err}
	}
	if errors.Is(err, blob.ErrBlock) {
		return &hal.Error{Code: hal.CodeHash, Text: err.Error() + ": the controller's copy is broken, push the release again", Err: err}
	}
	return err
}

func (f fetcher) fetch(ctx context.Context, sha wire.Digest, p update.Partial) error {
	log := f.a.Log.With().Str("blob", sha.Short()).Logger()
	return transfer(ctx, f.a.transfer(), func() error { return f.mqtt(ctx, sha, p) }, func() error { return f.https(ctx, sha, p) }, log)
}

// transfer goes one way, or the other where the first does not get on. While neither
// reaches the controller it waits, however long that takes.
func transfer(ctx context.Context, how string, mqtt, https func() error, log zerolog.Logger) error {
	for {
		var slow error
		if how != transferHTTPS {
			slow = mqtt()
			if hal.CodeOf(slow) != hal.CodeTimeout || how == transferMQTT {
				return slow
			}
			level := zerolog.WarnLevel
			if errors.Is(slow, uplink.ErrNoConnection) {
				level = zerolog.DebugLevel // there may be no network at all, for weeks
			}
			log.WithLevel(level).Err(slow).Msg("download goes on over HTTPS")
		}
		err := https()
		switch {
		case !errors.Is(err, uplink.ErrNoConnection) || ctx.Err() != nil:
			return err
		case slow != nil && !errors.Is(slow, uplink.ErrNoConnection):
			return slow // somebody is there
		}
		log.Debug().Err(err).Msg("download waits for a connection")
		if slow == nil && !sleep(ctx, offlineWait/2+rand.N(offlineWait)) {
			return context.Cause(ctx)
		}
	}
}

// mqtt fetches over the second connection to the broker, by differences from what
// runs where that is alike.
func (f fetcher) mqtt(ctx context.Context, sha wire.Digest, p update.Partial) error {
	var base *uplink.Base
	if like := f.a.loop.Alike(sha); like != "" {
		if file, err := f.a.loop.Blob(like); err == nil { // else it comes whole
			defer file.Close()
			base = &uplink.Base{SHA: like, R: file}
		}
	}
	return f.a.uplink.Fetch(ctx, sha, p, base)
}

// https fetches ranges from the controller's API.
func (f fetcher) https(ctx context.Context, sha wire.Digest, p update.Partial) error {
	t := &http.Transport{TLSClientConfig: f.a.Fleet.TLS(), Proxy: http.ProxyFromEnvironment}
	defer t.CloseIdleConnections()
	r := uplink.Ranges{API: f.a.Fleet.API, Client: &http.Client{Transport: t}}
	return r.Fetch(ctx, sha, p)
}

// transfer is the way that counts: without an API there is only MQTT.
func (a *agent) transfer() string {
	switch {
	case a.Fleet == nil || a.Fleet.API == "":
		return transferMQTT
	case a.File.Fleet.Transfer == "":
		return transferAuto
	}
	return a.File.Fleet.Transfer
}
