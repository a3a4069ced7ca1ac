package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// answers is what setup knows: all that the configuration is made of.
type answers struct {
	device      string
	data        string
	defaultData bool // data is where it is without being said
	camera      camera
	model       string // "": the fleet brings one
	labels      string
	lookFor     []string // nil: all
	broker      broker
	token       *wire.JoinToken
	noFleet     bool // the board joined one, and has nothing to do with it
	pictures    string
	page        secret
	made        bool // the page's password was made up, and is shown
}

// Names of files with secrets, beside the configuration.
const (
	homeSecret   = "home.password"
	cameraSecret = "camera.password"
	pageSecret   = "page.password"
)

// A secret is a password that is written into a file, or is in one already.
type secret struct {
	text string // to be written; "": nothing is
	file string // that the configuration names; "": there is none
}

// A camera is a source as the configuration has it: keys in order, values as YAML.
type camera struct {
	keys     [][2]string
	what     string // as it was answered
	password secret
}

// A broker is the house's; the zero value is none.
type broker struct {
	url, user string
	password  secret
}

// Words for answers.
const (
	none    = "none"
	pattern = "test"
	nowhere = "nowhere"
	onPage  = "page"
	inHouse = "house"
)

// quote is text as YAML and JSON both have it.
func quote(text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		panic(err) // a string
	}
	return string(b)
}

// camerasOf are the inputs that give pictures.
func camerasOf(all []hal.Input) []hal.Input {
	return slices.DeleteFunc(slices.Clone(all), func(i hal.Input) bool { return i.Source != "v4l2" && i.Source != "csi" })
}

// parseCamera reads what somebody answers: a number of the list, or what it stands for.
func parseCamera(text string, list []hal.Input) (camera, error) {
	if n, err := strconv.Atoi(text); err == nil {
		if n < 1 || n > len(list) {
			return camera{}, fmt.Errorf("there is no number %d in the list", n)
		}
		text = list[n-1].Source + ":" + list[n-1].ID
	}
	c := camera{what: text}
	set := func(pairs ...string) (camera, error) {
		for i := 0; i+1 < len(pairs); i += 2 {
			c.keys = append(c.keys, [2]string{pairs[i], pairs[i+1]})
		}
		return c, nil
	}
	kind, rest, _ := strings.Cut(text, ":")
	switch {
	case text == "":
		return c, errors.New("without a camera there is nothing to look at: a number of the list, a URL, a folder, or test")
	case text == pattern:
		return set("type", "synthetic", "width", "640", "height", "480", "fps", "2", "live", "true")
	case kind == "v4l2" && rest != "":
		return set("type", "v4l2", "device", quote(rest))
	case strings.HasPrefix(text, "/dev/"):
		if _, err := os.Stat(text); err != nil {
			return c, fmt.Errorf("there is no %s: covey-agent probe lists what is plugged in", text)
		}
		return set("type", "v4l2", "device", quote(text))
	case kind == "csi":
		if n, err := strconv.ParseUint(rest, 10, 4); err != nil || len(rest) > 2 {
			return c, fmt.Errorf("%.40q: cameras on the board's own socket are csi:0 to csi:15", text)
		} else {
			return set("type", "csi", "camera", strconv.FormatUint(n, 10), "width", "1280", "height", "720", "fps", "10")
		}
	case strings.Contains(text, "://"):
		return networkCamera(text)
	}
	path, err := filepath.Abs(text)
	if err != nil {
		return c, err
	}
	if fi, err := os.Stat(path); err != nil || !fi.IsDir() {
		return c, fmt.Errorf("%.60q is no number of the list, no URL, no folder that is there, and not test", text)
	}
	c.what = path
	return set("type", "folder", "path", quote(path), "watch", "true")
}

// networkCamera reads a URL. A user and password in it go where they belong.
func networkCamera(text string) (camera, error) {
	u, err := url.Parse(text)
	kinds := map[string]string{"rtsp": "rtsp", "rtsps": "rtsp", "http": "mjpeg", "https": "mjpeg"}
	if err != nil || u.Host == "" || kinds[u.Scheme] == "" { // err would repeat the password
		return camera{}, errors.New("that is not the URL of a camera, as in rtsp://user@192.168.1.20/stream1 or http://192.168.1.21/video")
	}
	user := u.User
	u.User = nil
	c := camera{what: u.String(), keys: [][2]string{{"type", kinds[u.Scheme]}, {"url", quote(u.String())}}}
	if name := user.Username(); name != "" {
		u.User = url.User(name)
		c.what = u.String()
		c.keys = append(c.keys, [2]string{"user", quote(name)})
		c.password.text, _ = user.Password()
	}
	if kinds[u.Scheme] == "rtsp" {
		c.keys = append(c.keys, [2]string{"width", "640"}, [2]string{"height", "360"}, [2]string{"fps", "5"})
	}
	return c, nil
}

// user is the camera's, "" where it has none.
func (c camera) user() string { return c.key("user") }

func (c camera) key(name string) string {
	for _, k := range c.keys {
		if k[0] == name {
			return k[1]
		}
	}
	return ""
}

// yaml is the source in one line.
func (c camera) yaml() string {
	var parts []string
	for _, k := range c.keys {
		parts = append(parts, k[0]+": "+k[1])
		if k[0] == "user" && c.password.file != "" {
			parts = append(parts, "password_file: "+quote(c.password.file))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// cameraOf is the answer that a source was configured by; "" where setup asks for none
// such.
func cameraOf(s agent.SourceFile) string {
	switch s.Type {
	case "v4l2":
		if strings.HasPrefix(s.Device, "/dev/") {
			return s.Device
		}
		return "v4l2:" + s.Device
	case "csi":
		return "csi:" + strconv.Itoa(s.Camera)
	case "folder":
		return s.Path
	case "synthetic":
		return pattern
	case "rtsp", "mjpeg":
		u, err := url.Parse(s.URL)
		if err != nil {
			return ""
		}
		if s.User != "" {
			u.User = url.User(s.User)
		}
		return u.String()
	}
	return ""
}

// parseBroker reads mqtt://user@host:1883, or a host alone; none.
func parseBroker(text string) (broker, error) {
	if text == none {
		return broker{}, nil
	}
	if !strings.Contains(text, "://") {
		text = "mqtt://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || !slices.Contains([]string{"mqtt", "mqtts", "ws", "wss"}, u.Scheme) ||
		strings.ContainsAny(u.Host, " \t,;") || u.RawQuery != "" || u.Fragment != "" { // err would repeat the password
		return broker{}, errors.New("that is no address of a broker, as in mqtt://192.168.1.10 or mqtts://user@broker.example:8883")
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return broker{}, fmt.Errorf("%.10q is no port", p)
		}
	}
	b := broker{user: u.User.Username()}
	b.password.text, _ = u.User.Password()
	u.User = nil
	if u.Scheme == "mqtt" || u.Scheme == "mqtts" {
		u.Path = ""
	}
	b.url = u.String()
	return b, nil
}

// brokerOf is the answer that a broker was configured by.
func brokerOf(h *agent.HomeFile) string {
	if h == nil {
		return none
	}
	scheme, rest, _ := strings.Cut(h.Broker, "://")
	if h.User == "" {
		return h.Broker
	}
	return scheme + "://" + url.User(h.User).String() + "@" + rest
}

// withHost is the broker's address with another host.
func (b broker) withHost(host string) broker {
	u, err := url.Parse(b.url)
	if err != nil {
		return b // it was parsed before
	}
	if port := u.Port(); port != "" {
		u.Host = net.JoinHostPort(host, port)
	} else if u.Host = host; strings.Contains(host, ":") {
		u.Host = "[" + host + "]"
	}
	b.url = u.String()
	return b
}

// parseLookFor reads labels with commas between. Those of the model are known, or nil.
func parseLookFor(text string, known []string) ([]string, error) {
	if text == "" || text == "all" {
		return nil, nil
	}
	var list []string
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		if name == "" {
			continue
		}
		if known != nil {
			i := slices.IndexFunc(known, func(l string) bool { return strings.EqualFold(l, name) })
			if i < 0 {
				return nil, fmt.Errorf("the model knows no %.40q%s", name, like(name, known))
			}
			name = known[i]
		}
		if !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	if len(list) == 0 {
		return nil, errors.New("no label there: labels with commas between, or all")
	}
	return list, nil
}

// like names labels that a word stands in.
func like(word string, known []string) string {
	var near []string
	for _, l := range known {
		if strings.Contains(strings.ToLower(l), strings.ToLower(word)) && len(near) < 5 {
			near = append(near, l)
		}
	}
	if len(near) == 0 {
		return ""
	}
	return "; it knows " + strings.Join(near, ", ")
}

// consistent says what does not go together.
func (a *answers) consistent(joined bool) error {
	joined = joined && !a.noFleet || a.token != nil
	switch {
	case a.model == "" && !joined:
		return errors.New("without a model of its own and without a fleet that brings one, the board sees nothing: answer question 2 or 4 otherwise")
	case a.pictures == inHouse && a.broker.url == "":
		return errors.New("pictures for the house need the house's broker: answer question 3 or 5 otherwise")
	}
	return nil
}

// yaml is the configuration.
func (a *answers) yaml() string {
	var b strings.Builder
	put := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	put("# By covey-agent setup. Yours to change: covey-agent check finds mistakes.")
	if a.device != "" {
		put("device: %s", quote(a.device))
	}
	if !a.defaultData {
		put("data: %s", quote(a.data))
	}
	if a.noFleet {
		put("fleet: {enabled: false}")
	}
	if h := a.broker; h.url != "" {
		put("home:\n  broker: %s", quote(h.url))
		if h.user != "" {
			put("  user: %s", quote(h.user))
		}
		if h.user != "" && h.password.file != "" {
			put("  password_file: %s", quote(h.password.file))
		}
	}
	switch a.pictures {
	case onPage:
		put("privacy: frames\npictures: page")
	case inHouse:
		put("privacy: frames\npictures: home")
	default:
		put("privacy: numbers")
	}
	if a.pictures == onPage || a.pictures == inHouse {
		put("local:\n  listen: %q\n  password_file: %s", pageListen, quote(a.page.file))
	}
	put("pipelines:\n  camera:\n    source: %s", a.camera.yaml())
	if a.model != "" {
		put("    model: %s", quote(a.model))
	}
	if a.labels != "" {
		put("    labels: %s", quote(a.labels))
	}
	if len(a.lookFor) > 0 {
		names := make([]string, len(a.lookFor))
		for i, l := range a.lookFor {
			names[i] = quote(l)
		}
		put("    events: {labels: [%s]}", strings.Join(names, ", "))
	}
	return b.String()
}

// pageListen is all of the house; the page asks for its password.
const pageListen = ":8099"
