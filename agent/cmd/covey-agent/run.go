package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/agent/internal/pulse"
	"github.com/covey-edge/covey/firmware"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/link/mqtt"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal/runner"
)

const runExample = `  # as the service does
  covey-agent run --config /etc/covey/agent.yaml`

func runCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the agent until it is interrupted",
		Long: "Run the pipelines of the configuration until interrupted: each a source, a model, and what becomes of\n" +
			"results. Without a model of its own a pipeline runs what the fleet says. docs/owner.md has all sources,\n" +
			"covey-agent check finds mistakes, covey-agent doctor says what models run on and why. On SIGHUP the\n" +
			"configuration is read again, except on a terminal.",
		Example: runExample,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), config) },
	}
	configFlag(cmd, &config)
	return cmd
}

// assemble makes the agent's values out of a configuration: the only place that
// knows which engines, sources and links there are.
func assemble(file *agent.File, units *runner.Units, log zerolog.Logger) (agent.Config, *renewal, error) {
	self, err := os.Executable()
	if err != nil {
		return agent.Config{}, nil, fmt.Errorf("where am I: %w", err)
	}
	c := agent.Config{
		File: file, Version: version, FS: blob.OS{},
		Board: firmware.Detect(os.DirFS("/")), Root: os.DirFS("/"),
		Floor: floor(), CheckOutbox: []string{self, agent.CheckOutboxCommand}, Log: log,
	}
	if err := os.MkdirAll(agent.EnginesPath(file.Data), 0o700); err != nil {
		return c, nil, err
	}
	if c.Engines, err = engines(file, units, log); err != nil {
		return c, nil, err
	}
	id, err := agent.LoadIdentity(file.Data)
	if err != nil {
		return c, nil, err
	}
	var renew *renewal
	if id != nil && !file.Fleet.Disabled {
		if file.Device != "" && file.Device != id.ID {
			return c, nil, fmt.Errorf("the configuration says device %s, but this board joined as %s: change one, or join again", file.Device, id.ID)
		}
		c.Device, c.TrustRoot = id.ID, id.TrustRoot
		renew = &renewal{data: file.Data, log: log}
		renew.id.Store(id)
		if c.Fleet, err = fleetLink(file, renew, log); err != nil {
			return c, nil, err
		}
	} else if c.Device, err = file.DeviceName(); err != nil {
		return c, nil, err
	}
	all := &sources{log: log}
	if all.jpeg, err = pictures(units, log); err != nil {
		return c, nil, err
	}
	c.Source = all.open
	if file.Home != nil {
		house, err := homeConfig(file.Home, c.Device, log)
		if err != nil {
			return c, nil, err
		}
		if c.Home, err = mqtt.New(house); err != nil {
			return c, nil, err
		}
		all.home = func(n uint64) mqtt.Config {
			house.ClientID, house.Clean = fmt.Sprintf("covey-%s-in%d", c.Device, n), true
			return house
		}
	}
	return c, renew, nil
}

// floor is a time that it cannot be earlier than, whatever the clock of a board
// without a battery says: that of the commit which this program was built from.
func floor() time.Time {
	seconds, err := strconv.ParseInt(built, 10, 64)
	if err != nil {
		return time.Time{} // not built by scripts/setup
	}
	return time.Unix(seconds, 0)
}

func fleetLink(file *agent.File, r *renewal, log zerolog.Logger) (*agent.FleetLink, error) {
	id := r.id.Load()
	url := id.MQTT
	if file.Fleet.URL != "" {
		url = file.Fleet.URL
	}
	log = log.With().Str("link", "fleet").Logger()
	link, err := mqtt.New(mqtt.Config{URL: url, ClientID: string(id.ID), TLS: r.tls, Logger: log})
	if err != nil {
		return nil, err
	}
	_, expires := id.Validity()
	return &agent.FleetLink{
		Link: link,
		Bulk: func() wire.Link {
			// The same configuration with another name: New said yes to it above.
			bulk, err := mqtt.New(mqtt.Config{URL: url, ClientID: string(id.ID) + wire.BulkSuffix, Clean: true, TLS: r.tls,
				Spread: 50 * time.Millisecond, Logger: log}) // few boards download at a time
			if err != nil {
				panic(err)
			}
			return bulk
		},
		Root: id.Root, MachineID: firmware.MachineID(os.DirFS("/")), CertExpires: expires,
		API: id.URL, TLS: r.tls,
	}, nil
}

// homeConfig is how to reach the house's broker.
func homeConfig(h *agent.HomeFile, device wire.DeviceID, log zerolog.Logger) (mqtt.Config, error) {
	password, err := h.Password()
	if err != nil {
		return mqtt.Config{}, err
	}
	c := mqtt.Config{URL: h.Broker, ClientID: "covey-" + string(device), Username: h.User, Password: password,
		Spread: time.Second, // a house has few clients: no herd comes back at once
		Logger: log.With().Str("link", "home").Logger()}
	if h.CA != "" {
		pem, err := os.ReadFile(h.CA)
		if err != nil {
			return c, fmt.Errorf("home.ca: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return c, errors.New("home.ca: no certificate in " + filepath.Base(h.CA))
		}
		c.TLS = func() *tls.Config { return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12} }
	}
	return c, nil
}

// A renewal keeps the board's certificate fresh.
type renewal struct {
	data string
	log  zerolog.Logger
	id   atomic.Pointer[agent.Identity]
}

// tls is the configuration of the next connection.
func (r *renewal) tls() *tls.Config {
	c, err := r.id.Load().TLS()
	if err != nil { // it was good when it was loaded
		r.log.Error().Err(err).Msg("identity")
		return nil
	}
	return c
}

// renewTime is the longest that a controller may take over it.
const renewTime = 5 * time.Minute

// run renews at two thirds of the certificate's life, give or take, until ctx ends.
func (r *renewal) run(ctx context.Context, loop *pulse.Loop) {
	defer loop.Leave(ctx)
	const look = time.Hour // a timer until then would not see the clock being set
	for {
		if !loop.Sleep(ctx.Done(), rand.N(look)) {
			return
		}
		if time.Now().Before(r.id.Load().RenewAt()) {
			continue
		}
		loop.Do("renews the certificate", 2*renewTime)
		limited, cancel := context.WithTimeout(ctx, renewTime)
		next, err := r.id.Load().Renew(limited)
		cancel()
		if err == nil {
			err = agent.SaveIdentity(r.data, next)
		}
		if err != nil {
			r.log.Warn().Err(err).Msg("certificate not renewed; it is tried again within the hour")
			continue
		}
		r.id.Store(next)
		_, until := next.Validity()
		r.log.Info().Time("until", until).Msg("certificate renewed")
	}
}
