package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/covey-edge/covey/fleet"
)

const serveExample = `  # on this machine, data under your home folder
  covey-fleet serve

  # as boards will find it from elsewhere
  covey-fleet serve --host fleet.example.org --data /var/lib/covey-fleet

  # any free ports; endpoints.json in the data folder says which
  covey-fleet serve --listen 127.0.0.1:0 --mqtt 127.0.0.1:0`

func serveCommand() *cobra.Command {
	cfg := fleet.Config{Version: version, Check: checkInChild}
	level, config := zerolog.InfoLevel.String(), ""
	cmd := &cobra.Command{
		Use:     "serve",
		Short:   "Run the controller",
		Long:    "Run the controller until it is interrupted. At the first start it makes its\ncertificate authority and an admin token, which is in the file admin.token of\nthe data folder.",
		Example: serveExample,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			min, err := zerolog.ParseLevel(level)
			if err != nil {
				return fmt.Errorf("--log %q: use debug, info, warn or error", level)
			}
			cfg.Log = logger(os.Stderr).Level(min)
			if config != "" {
				if err := cfg.LoadFile(config); err != nil {
					return err
				}
			}
			return fleet.Run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Data, "data", dataFolder(), "folder of everything the controller keeps")
	f.StringVar(&cfg.Listen, "listen", ":8443", "address of the REST API (HTTPS)")
	f.StringVar(&cfg.MQTT, "mqtt", ":8883", "address of the broker (MQTT over TLS)")
	f.StringVar(&cfg.Plain, "plain", "", "address of the broker without TLS, for homes with a password only, such as 127.0.0.1:1883")
	f.StringSliceVar(&cfg.Hosts, "host", nil, "name or address by which boards reach this machine, the best first (default: all it has)")
	f.StringVar(&cfg.Root, "root", "covey", "first level of all topics")
	f.StringVar(&config, "config", "", "file with webhooks, YAML")
	f.StringVar(&level, "log", level, "least level that is logged")
	return cmd
}

// dataFolder is systemd's, or one of the user's own.
func dataFolder() string {
	if dir := os.Getenv("STATE_DIRECTORY"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return filepath.Join(dir, "covey-fleet")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "covey-fleet"
	}
	return filepath.Join(home, ".local", "share", "covey-fleet")
}

// logger writes for people on a terminal, JSON else.
func logger(out *os.File) zerolog.Logger {
	var w io.Writer = out
	if term.IsTerminal(int(out.Fd())) {
		w = zerolog.ConsoleWriter{Out: out, TimeFormat: time.TimeOnly}
	}
	zerolog.TimeFieldFormat = time.RFC3339Nano
	return zerolog.New(w).With().Timestamp().Logger()
}

// checkLimit is long for a sound database on a slow card, by its size in bytes, and
// short for one that turns for ever.
func checkLimit(size int64) time.Duration {
	return 2*time.Minute + time.Duration(size>>20)*100*time.Millisecond
}

// checkInChild runs this program again to examine a database.
func checkInChild(ctx context.Context, path string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var size int64
	if fi, err := os.Stat(path); err == nil { // else check says so
		size = fi.Size()
	}
	ctx, cancel := context.WithTimeout(ctx, checkLimit(size))
	defer cancel()
	out, err := exec.CommandContext(ctx, self, "check", path).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == exitInUse {
		return fmt.Errorf("open %s: %w", path, fleet.ErrInUse)
	}
	if err != nil {
		said, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("%w: %s", err, said)
	}
	return nil
}

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "check <fleet.db>",
		Short:   "Examine a database that no controller uses",
		Example: "  covey-fleet check /var/lib/covey-fleet/fleet.db",
		Args:    cobra.ExactArgs(1),
		RunE:    func(_ *cobra.Command, args []string) error { return fleet.CheckStore(args[0]) },
	}
}
