package agent

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/covey-edge/covey/agent/internal/local"
	"github.com/covey-edge/covey/agent/internal/picture"
	"github.com/covey-edge/covey/fleet/wire"
)

// PrivacyFile says what may be shown of what a board sees. Empty fields leave it to the
// board's own, and there to the default: numbers alone.
type PrivacyFile struct {
	Class    string   // privacy: numbers, thumbnails, frames
	Pictures string   // to whom at the most: page, home, fleet
	Blur     []string // labels whose boxes are made unrecognisable
}

// A ZoneFile is a part of the picture with a name: corners in 0..1.
type ZoneFile struct {
	Name    string
	Corners [][2]float32
}

// EventsFile says what counts as an event. Zero values are the defaults.
type EventsFile struct {
	Labels  []string      // others are not looked at; empty: all are
	Confirm int           // results in a row that show something before it has come
	Hold    time.Duration // without it before it has gone
}

// LocalFile is the page on the board, and what programs of the house ask it.
type LocalFile struct {
	Listen       string // host:port
	PasswordFile string
	TokenFile    string     // of programs; "": the password is taken
	Hosts        []string   // names that the board is opened by, besides its own
	Ingress      netip.Addr // from where Home Assistant brings people in; invalid: there is none
}

// Secrets reads the files of the password and the token; "" of each that there is not.
func (l *LocalFile) Secrets() (password, token string, err error) {
	if password, err = readPassword(l.PasswordFile); err == nil {
		token, err = readPassword(l.TokenFile)
	}
	return password, token, err
}

// policy is what may be shown of a pipeline: its own word counts more than the board's,
// and a fleet's can only forbid.
func (f *File) policy(p PipelineFile) picture.Policy {
	own := f.Privacy.with(p.Privacy).policy()
	if f.fleetPrivacy == nil {
		return own
	}
	theirs := *f.fleetPrivacy
	if theirs.Class == "" {
		theirs.Class = string(picture.Frames) // it says nothing of that
	}
	if theirs.Pictures == "" {
		theirs.Pictures = picture.Fleet.String()
	}
	return own.Strictest(theirs.policy())
}

// with is f with what o says.
func (f PrivacyFile) with(o PrivacyFile) PrivacyFile {
	if o.Class != "" {
		f.Class = o.Class
	}
	if o.Pictures != "" {
		f.Pictures = o.Pictures
	}
	if o.Blur != nil {
		f.Blur = o.Blur
	}
	return f
}

func (f PrivacyFile) policy() picture.Policy {
	to, _ := picture.ParseAudience(f.Pictures) // "" is page
	return picture.Policy{Class: picture.Class(f.Class), To: to, Blur: f.Blur}
}

// privacyFields are the keys of a PrivacyFile.
func (d *configDecoder) privacyFields(f *PrivacyFile) fields {
	return fields{
		"privacy":  d.oneOf(&f.Class, string(picture.Numbers), string(picture.Thumbnails), string(picture.Frames)),
		"pictures": d.oneOf(&f.Pictures, picture.Page.String(), picture.Home.String(), picture.Fleet.String()),
		"blur":     d.names(&f.Blur, "blur"),
	}
}

// maxName is the longest label in a configuration, bytes.
const maxName = 128

// names reads a list of labels.
func (d *configDecoder) names(to *[]string, where string) field {
	return func(n *yaml.Node) {
		d.list(n, where, func(entry *yaml.Node) {
			var s string
			d.text(&s)(entry)
			if len(s) > maxName {
				d.errorf(entry, "a label of more than %d bytes", maxName)
			}
			*to = append(*to, s)
		})
	}
}

const (
	maxZones   = 16 // of a pipeline, and as many masks
	maxCorners = 64 // of each
)

// polygon reads corners.
func (d *configDecoder) polygon(to *[][2]float32) field {
	return func(n *yaml.Node) {
		if n.Kind != yaml.SequenceNode || len(n.Content) < 3 || len(n.Content) > maxCorners {
			d.errorf(n, "want 3 to %d corners, as in [[0.1, 0.5], [0.4, 0.5], [0.4, 0.9]], got %s", maxCorners, kindName(n))
			return
		}
		for _, c := range n.Content {
			if c.Kind != yaml.SequenceNode || len(c.Content) != 2 {
				d.errorf(c, "want a corner [x, y] in 0 to 1, got %s", kindName(c))
				return
			}
			var x, y float64
			d.number(&x, 0, 1)(c.Content[0])
			d.number(&y, 0, 1)(c.Content[1])
			*to = append(*to, [2]float32{float32(x), float32(y)})
		}
	}
}

func (d *configDecoder) zones(to *[]ZoneFile) field {
	return func(n *yaml.Node) {
		d.eachKey(n, "zones", func(key, value *yaml.Node) {
			z := ZoneFile{}
			d.id(&z.Name)(key)
			if z.Name != "" && !wire.ValidZone(z.Name) {
				d.errorf(key, "no zone can be called %s: the pipeline's own topics are", z.Name)
			}
			d.polygon(&z.Corners)(value)
			*to = append(*to, z)
		})
		if len(*to) > maxZones {
			d.errorf(n, "%d zones, the limit is %d", len(*to), maxZones)
		}
	}
}

func (d *configDecoder) masks(to *[][][2]float32) field {
	return func(n *yaml.Node) {
		d.list(n, "masks", func(entry *yaml.Node) {
			var corners [][2]float32
			d.polygon(&corners)(entry)
			*to = append(*to, corners)
		})
	}
}

func (d *configDecoder) events(to *EventsFile) field {
	return d.object("events", fields{
		"labels":  d.names(&to.Labels, "labels"),
		"confirm": d.integer(&to.Confirm, 1, 100),
		"hold":    d.duration(&to.Hold, 100*time.Millisecond, time.Hour),
	})
}

func (d *configDecoder) local(to **LocalFile) field {
	return func(n *yaml.Node) {
		l, on := &LocalFile{Listen: local.DefaultListen}, true
		d.object("local", fields{
			"enabled":       d.boolean(&on),
			"listen":        d.listen(&l.Listen),
			"password_file": d.secret(&l.PasswordFile),
			"token_file":    d.secret(&l.TokenFile),
			"hosts":         d.names(&l.Hosts, "hosts"),
			"ingress":       d.ip(&l.Ingress),
		})(n)
		if host, _, err := net.SplitHostPort(l.Listen); err == nil && !loopback(host) && l.PasswordFile == "" && l.TokenFile == "" && !l.Ingress.IsValid() {
			d.errorf(n, `whoever is in the house could look at the page: add "password_file: page.password", or listen on %s`, local.DefaultListen)
		}
		if on {
			*to = l
		}
	}
}

// ip reads an address.
func (d *configDecoder) ip(to *netip.Addr) field {
	return func(n *yaml.Node) {
		var s string
		d.text(&s)(n)
		a, err := netip.ParseAddr(s)
		if err != nil {
			d.errorf(n, "%.60q is not an address, as in 172.30.32.2", s)
			return
		}
		*to = a
	}
}

// loopback says whether a host is this board alone.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// listen reads host:port; an empty host is all of the board's addresses.
func (d *configDecoder) listen(to *string) field {
	return func(n *yaml.Node) {
		var s string
		d.text(&s)(n)
		host, port, err := net.SplitHostPort(s)
		v, errPort := strconv.Atoi(port)
		if err != nil || errPort != nil || v < 1 || v > 65535 || host != "" && host != "localhost" && net.ParseIP(host) == nil {
			d.errorf(n, `%q is not an address and a port, as in "127.0.0.1:8099" or ":8099"`, s)
			return
		}
		*to = s
	}
}

// topicLevel reads one level of a topic.
func (d *configDecoder) topicLevel(to *string) field {
	return func(n *yaml.Node) {
		var s string
		d.text(&s)(n)
		if s == "" || len(s) > 64 || strings.ContainsAny(s, "/+#$ \x00") {
			d.errorf(n, "%.80q is not one level of a topic, as in homeassistant; off: nothing is announced", s)
			return
		}
		*to = s
	}
}
