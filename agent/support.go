package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/wire"
)

// What is shown in the place of what is not.
const hidden = "(not shown)"

// shownKeys are the keys of a configuration whose values may be seen by others, whatever
// they are. Numbers and switches are shown anyway, addresses without what could be a secret
// in them; everything else is hidden: a key that is new, misspelt or a person's own too.
var shownKeys = []string{
	"device", "data", "log", "channel", "transfer", "discovery", "privacy", "pictures", "blur", "listen", "ingress", "accelerator", "accelerators",
	"accelerator_device", "type", "format", "bias", "fit", "durable", "deadline", "hold", "quiet", "debounce", "memory", "model", "labels", "path",
	"library", "password_file", "token_file", "ca", "shapes", "devices",
}

// addressKeys are those of which the scheme and the host are shown.
var addressKeys = []string{"broker", "url"}

// Redacted is a configuration as others may see it: without passwords, users, paths of
// addresses, comments, and all else that could be a secret. secrets are the texts that were
// hidden, to be hidden elsewhere, too. One that is no YAML is hidden as a whole.
func Redacted(text []byte) (shown []byte, secrets []string) {
	var doc yaml.Node
	if len(text) > maxConfig || yaml.Unmarshal(text, &doc) != nil {
		return []byte("# " + hidden + ": it is no YAML, or too long\n"), nil
	}
	r := &redaction{}
	r.node(&doc, "", 0)
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(&doc), e.Close()); err != nil {
		return []byte("# " + hidden + "\n"), r.secrets
	}
	return b.Bytes(), r.secrets
}

type redaction struct{ secrets []string }

const maxDepth = 32

// node hides what is below a key.
func (r *redaction) node(n *yaml.Node, key string, depth int) {
	n.HeadComment, n.LineComment, n.FootComment, n.Anchor = "", "", "", ""
	switch {
	case n.Kind == yaml.AliasNode || depth > maxDepth || n.Kind == yaml.ScalarNode:
		r.scalar(n, key)
	case n.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			k.HeadComment, k.LineComment, k.FootComment, k.Anchor = "", "", "", ""
			r.node(n.Content[i+1], k.Value, depth+1)
			if k.Kind != yaml.ScalarNode || !plainKey.MatchString(k.Value) {
				*k = yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprintf("key-%d", i/2+1)}
			}
		}
	default:
		for _, c := range n.Content {
			r.node(c, key, depth+1)
		}
	}
}

var plainKey = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)

// scalar hides one value. What looks like a number may be a password, under a key that is
// not ours.
func (r *redaction) scalar(n *yaml.Node, key string) {
	switch {
	case n.Kind == yaml.ScalarNode && slices.Contains(shownKeys, key) && !strings.Contains(n.Value, "://"):
		return
	case n.Kind == yaml.ScalarNode && slices.Contains(numberKeys, key) && (n.Tag == "!!int" || n.Tag == "!!float" || n.Tag == "!!bool"):
		return
	case n.Kind == yaml.ScalarNode && slices.Contains(addressKeys, key):
		r.address(n)
		return
	}
	r.keep(n.Value)
	*n = yaml.Node{Kind: yaml.ScalarNode, Value: hidden}
}

// numberKeys are those whose numbers and switches are shown.
var numberKeys = []string{
	"health_seconds", "enabled", "config", "threads", "threshold", "top", "weight", "crop", "bgr", "zones", "masks", "confirm", "width", "height", "fps", "live",
	"loop", "watch", "count", "camera", "baud", "rate", "window", "hop", "scale", "active_low", "channels", "brightness", "contrast",
}

// address leaves scheme and host of an address.
func (r *redaction) address(n *yaml.Node) {
	u, err := url.Parse(n.Value)
	value := hidden
	if err == nil && u.Host != "" {
		value = u.Scheme + "://" + u.Host
		if rest := strings.TrimPrefix(u.Path, "/"); rest != "" {
			value += "/…"
			r.keep(rest)
		}
		if password, is := u.User.Password(); is {
			r.keep(password)
		}
		r.keep(u.User.Username())
		r.keep(u.RawQuery)
		for _, values := range u.Query() {
			for _, v := range values {
				r.keep(v)
			}
		}
	} else {
		r.keep(n.Value)
		if i := strings.LastIndexByte(n.Value, '@'); i >= 0 { // a password with a letter that an address has not
			_, login, _ := strings.Cut(n.Value[:i], "://")
			user, password, _ := strings.Cut(login, ":")
			r.keep(user)
			r.keep(password)
		}
	}
	*n = yaml.Node{Kind: yaml.ScalarNode, Value: value}
}

// leastSecret is the shortest text that is looked for elsewhere: shorter ones stand in any
// text.
const leastSecret = 4

func (r *redaction) keep(text string) {
	if len(text) >= leastSecret {
		r.secrets = append(r.secrets, text)
	}
}

// A Digest of a board's state says which releases it has and had, and nothing of what it
// saw or was told at home.
type Digest struct {
	Rev        uint64                    `json:"rev"`
	Pipelines  map[string]PipelineDigest `json:"pipelines"`
	Quarantine []wire.Quarantined        `json:"quarantine"`
	Set        []string                  `json:"set_at_home"` // pipelines
	Joined     bool                      `json:"joined"`
}

// PipelineDigest are a pipeline's slots, "name version (release)", and its last execution.
type PipelineDigest struct {
	Active    string         `json:"active,omitempty"`
	Previous  string         `json:"previous,omitempty"`
	Candidate string         `json:"candidate,omitempty"`
	State     wire.ExecState `json:"state,omitempty"`
	Boots     int            `json:"boots,omitempty"`
	Code      string         `json:"code,omitempty"` // why it is leaving, or left
}

// DigestOf reads the state of a data folder, and changes nothing.
func DigestOf(data string) (*Digest, error) {
	st, err := slots.Read(data, blob.OS{})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	d := &Digest{Rev: st.Rev, Pipelines: map[string]PipelineDigest{}, Quarantine: st.Quarantine, Set: slices.Sorted(maps.Keys(st.Home))}
	for name, p := range st.Pipelines {
		one := PipelineDigest{Active: slotOf(p.Active), Previous: slotOf(p.Previous), Candidate: slotOf(p.Candidate)}
		if x := p.Exec; x != nil {
			one.State, one.Boots = x.State, x.Boots
			if x.Fault != nil {
				one.Code = string(x.Fault.Code)
			}
		}
		d.Pipelines[name] = one
	}
	_, err = os.Stat(IdentityPath(data))
	d.Joined = err == nil
	return d, nil
}

func slotOf(s *slots.Slot) string {
	if s == nil {
		return ""
	}
	return fmt.Sprintf("%s %s (%s)", s.Name, s.Version, s.Release.Short())
}

// StoredFormats is the file that says which agent wrote a data folder; "" where there is
// none.
func StoredFormats(data string) string {
	b, err := blob.ReadFile(blob.OS{}, filepath.Join(data, formatsFile), maxFormats)
	if err != nil {
		return ""
	}
	return string(b)
}
