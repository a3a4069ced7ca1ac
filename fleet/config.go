package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"github.com/covey-edge/covey/fleet/internal/webhook"
	"github.com/covey-edge/covey/fleet/wire"
)

// maxConfig is how long a configuration may be, bytes.
const maxConfig = 64 << 10

// A Webhook is an address that is told when a rollout's state changes.
type Webhook struct {
	URL string `yaml:"url"` // https, or http to this machine
	// SecretFile holds what its calls are signed with; relative to the configuration.
	SecretFile string `yaml:"secret_file"`
	// Events are states of rollouts, as PAUSED; none: all.
	Events []string `yaml:"events"`
}

// LoadFile reads what a file says into c: YAML, with webhooks.
func (c *Config) LoadFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(b) > maxConfig {
		err = fmt.Errorf("longer than %d bytes", maxConfig)
	}
	if err != nil {
		return fmt.Errorf("--config %s: %w", path, err)
	}
	if c.Webhooks, err = parseConfig(b); err != nil {
		return fmt.Errorf("--config %s: %w", path, err)
	}
	for i, w := range c.Webhooks {
		if !filepath.IsAbs(w.SecretFile) {
			c.Webhooks[i].SecretFile = filepath.Join(filepath.Dir(path), w.SecretFile)
		}
	}
	return nil
}

// parseConfig reads a configuration, strictly.
func parseConfig(b []byte) ([]Webhook, error) {
	var v struct {
		Webhooks []Webhook `yaml:"webhooks"`
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&v); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return v.Webhooks, nil
}

// hooks reads the secrets.
func hooks(list []Webhook) (out []webhook.Hook, err error) {
	for _, w := range list {
		fi, err := os.Stat(w.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("webhook %s: secret_file: %w", w.URL, err)
		}
		if fi.Mode().Perm()&0o077 != 0 {
			return nil, fmt.Errorf("webhook %s: others can read %s: chmod 600 it", w.URL, w.SecretFile)
		}
		b, err := os.ReadFile(w.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("webhook %s: secret_file: %w", w.URL, err)
		}
		h := webhook.Hook{URL: w.URL, Secret: webhook.Secret(b)}
		for _, e := range w.Events {
			h.States = append(h.States, wire.RolloutState(e))
		}
		out = append(out, h)
	}
	return out, webhook.Validate(out)
}
