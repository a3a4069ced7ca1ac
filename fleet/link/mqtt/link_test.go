package mqtt

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/rs/zerolog"
)

// fast is a configuration for tests: it comes back at once.
func fast(addr, id string, clean bool) Config {
	return Config{
		URL: "mqtt://" + addr, ClientID: id, Clean: clean, KeepAlive: 2 * time.Second,
		Spread: 10 * time.Millisecond, MaxDelay: 100 * time.Millisecond, Logger: zerolog.Nop(),
	}
}

func newLink(t testing.TB, cfg Config) *Link {
	t.Helper()
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestSuite(t *testing.T) {
	linktest.Run(t, func(t *testing.T) linktest.Rig {
		broker := linktest.Mosquitto(t, denying(t, "no/#")...)
		proxies := map[string]*linktest.Proxy{}
		return linktest.Rig{
			Link: func(id string, clean bool) wire.Link {
				if proxies[id] == nil {
					proxies[id] = linktest.NewProxy(t, broker)
				}
				return newLink(t, fast(proxies[id].Addr(), id, clean))
			},
			Cut:    func(id string) { proxies[id].Reset() },
			Denied: "no/#",
		}
	})
}

// denying is the configuration of a mosquitto that refuses one subscription. Its
// access list file never does; the plugin that comes with it can.
func denying(t *testing.T, filter string) []string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/*/mosquitto_dynamic_security.so")
	if len(found) == 0 {
		t.Fatal("mosquitto_dynamic_security.so is not installed (it comes with the mosquitto package)")
	}
	path := filepath.Join(t.TempDir(), "security.json")
	text := `{"defaultACLAccess":{"publishClientSend":true,"publishClientReceive":true,"subscribe":true,"unsubscribe":true},
		"clients":[],"groups":[{"groupname":"all","roles":[{"rolename":"all"}]}],"anonymousGroup":"all",
		"roles":[{"rolename":"all","acls":[{"acltype":"subscribePattern","topic":"` + filter + `","allow":false}]}]}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"plugin " + found[0], "plugin_opt_config_file " + path}
}
