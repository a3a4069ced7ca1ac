package main

import (
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/fleet/wire"
)

// name asks for the board's name where it has none.
func (s *setup) name() error {
	given := s.setupFlags.device
	if given == "" && s.before != nil {
		given = string(s.before.Device)
	}
	if given == "" && s.joined != nil {
		given = string(s.joined.ID)
	}
	for {
		if given != "" {
			if !wire.ValidID(given) {
				if s.yes || s.given["device"] {
					return fmt.Errorf("--device: %q is not a name of a-z, 0-9 and -, 32 at the most", given)
				}
				s.say("  %q is not a name of a-z, 0-9 and -, 32 at the most.", given)
			} else {
				s.a.device = given
				return nil
			}
		}
		_, err := (&agent.File{}).DeviceName()
		if err == nil {
			return nil
		}
		if s.yes {
			return fmt.Errorf("%w; or give --device", err)
		}
		if given, err = s.ask("A name for this board, as in porch", ""); err != nil {
			return err
		}
	}
}

func (s *setup) askCamera() error {
	s.choices = camerasOf(inputs(os.DirFS("/")))
	otherwise := ""
	if s.before != nil && len(s.before.Pipelines) > 0 {
		otherwise = cameraOf(s.before.Pipelines[0].Source)
	}
	if otherwise == "" && len(s.choices) > 0 {
		otherwise = "1"
	}
	s.title(1, "which camera?")
	if !s.given["camera"] {
		for i, c := range s.choices {
			s.say("  %d  %s\n     %s:%s", i+1, c.Name, c.Source, c.ID)
		}
		if len(s.choices) == 0 {
			s.say("  No camera is plugged in.")
		}
		s.say("  Or the URL of a network camera (rtsp://user@192.168.1.20/stream1), a folder of pictures, or test for a pattern.")
	}
	return s.settle(question{flag: "camera", value: s.setupFlags.camera, prompt: "Camera", otherwise: otherwise,
		take: func(text string) error {
			c, err := parseCamera(text, s.choices)
			if err == nil && c.user() != "" {
				err = s.cameraPassword(&c)
			}
			if err == nil {
				s.a.camera = c
			}
			return err
		}, try: s.tryCamera})
}

// cameraPassword asks for the password of a network camera, unless the one that is there
// is for it.
func (s *setup) cameraPassword(c *camera) error {
	kept := ""
	if b := s.before; b != nil && len(b.Pipelines) > 0 && cameraOf(b.Pipelines[0].Source) == c.what {
		kept = s.place.beside(b.Pipelines[0].Source.PasswordFile)
	}
	return s.password(&c.password, "Its password", kept, cameraSecret)
}

// password asks for one that somebody else has set. Enter keeps the one of the file kept,
// where there is one.
func (s *setup) password(p *secret, prompt, kept, file string) error {
	if p.text == "" && !s.yes {
		what := ", which is not shown"
		if kept != "" {
			what += "; Enter keeps the one that is there"
		}
		var err error
		if p.text, err = s.secret(prompt + what); err != nil {
			return err
		}
	}
	switch {
	case strings.ContainsAny(p.text, "\r\n\x00"):
		return errors.New("a password has no line end in it")
	case p.text != "":
		p.file = file
	default:
		p.file = kept
	}
	return nil
}

func (s *setup) askModel() error {
	s.models = modelsIn("/usr/share/covey/models", filepath.Join(s.a.data, "models"), s.a.data)
	otherwise := ""
	switch {
	case s.before != nil && len(s.before.Pipelines) > 0 && s.before.Pipelines[0].Model != "":
		otherwise = s.before.Pipelines[0].Model
	case s.before != nil && s.joined != nil || s.given["join"] && s.setupFlags.join != none:
		otherwise = none
	case len(s.models) > 0:
		otherwise = "1"
	}
	s.title(2, "what to look for?")
	if !s.given["model"] {
		for i, m := range s.models {
			s.say("  %d  %s", i+1, m)
		}
		s.say("  A number, or the path of a .tflite or .onnx file; none if a fleet brings it.")
	}
	err := s.settle(question{flag: "model", value: s.setupFlags.model, prompt: "Model", otherwise: otherwise, take: s.takeModel, try: s.tryModel})
	if err != nil {
		return err
	}
	return s.askLookFor()
}

// modelsIn are the models in folders.
func modelsIn(folders ...string) []string {
	var all []string
	for _, f := range folders {
		for _, end := range []string{"*.tflite", "*.onnx"} {
			found, _ := filepath.Glob(filepath.Join(f, end)) // the pattern is a good one
			all = append(all, found...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (s *setup) takeModel(text string) error {
	if s.model != nil {
		s.model.Close() // another is looked at
		s.model = nil
	}
	if text == none {
		s.a.model, s.a.labels = "", ""
		return nil
	}
	if n, err := strconv.Atoi(text); err == nil && n >= 1 && n <= len(s.models) {
		text = s.models[n-1]
	}
	path, err := readable(text)
	if err != nil {
		return err
	}
	labels, err := s.labelsOf(path)
	if err == nil {
		err = s.place.lets(path)
	}
	if err == nil && labels != "" {
		err = s.place.lets(labels)
	}
	if err != nil {
		return err
	}
	s.a.model, s.a.labels = path, labels
	return nil
}

// readable is a file's whole path.
func readable(text string) (string, error) {
	if text == "" {
		return "", errors.New("a file is needed: a number of the list, or a path")
	}
	path, err := filepath.Abs(text)
	if err != nil {
		return "", err
	}
	if fi, err := os.Stat(path); err != nil || !fi.Mode().IsRegular() {
		return "", fmt.Errorf("there is no file %s", path)
	}
	return path, nil
}

// labelsOf is the file of labels that goes with a model: the flag's, or the one that is
// configured for it.
func (s *setup) labelsOf(model string) (string, error) {
	if s.given["labels"] {
		path, err := readable(s.setupFlags.labels)
		if err != nil {
			err = fmt.Errorf("--labels: %w", err)
		}
		return path, err
	}
	if b := s.before; b != nil && len(b.Pipelines) > 0 && b.Pipelines[0].Model == model {
		return b.Pipelines[0].Labels, nil
	}
	return "", nil
}

// askLabels asks for the names of what a model answers by numbers.
func (s *setup) askLabels() error {
	if s.yes || s.model == nil || s.model.Labels() != nil {
		return nil
	}
	otherwise := none
	for _, name := range []string{strings.TrimSuffix(s.a.model, filepath.Ext(s.a.model)) + ".txt", "labels.txt", "labelmap.txt"} {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(s.a.model), name)
		}
		if exists(name) {
			otherwise = name
			break
		}
	}
	s.say("  The model has numbers for what it sees, and no names.")
	return s.settle(question{flag: "labels", prompt: "File with a name a line", otherwise: otherwise, take: func(text string) error {
		if text == none {
			return nil
		}
		path, err := readable(text)
		if err == nil {
			err = s.place.lets(path)
		}
		if err == nil {
			s.a.labels = path
		}
		return err
	}, try: s.tryModel})
}

func (s *setup) askLookFor() error {
	if err := s.askLabels(); err != nil {
		return err
	}
	var known []string
	if s.model != nil {
		known = s.model.Labels()
	}
	otherwise := "all"
	if b := s.before; b != nil && len(b.Pipelines) > 0 && b.Pipelines[0].Model == s.a.model && len(b.Pipelines[0].Events.Labels) > 0 {
		otherwise = strings.Join(b.Pipelines[0].Events.Labels, ",")
	}
	if len(known) > 0 && !s.given["look-for"] {
		const shown = 40
		named := slices.DeleteFunc(slices.Clone(known), func(l string) bool { return strings.Trim(l, "? ") == "" })
		more := ""
		if len(named) > shown {
			more = fmt.Sprintf(" and %d more", len(named)-shown)
		}
		s.say("  It knows %s%s.", strings.Join(named[:min(shown, len(named))], ", "), more)
	}
	return s.settle(question{flag: "look-for", value: s.setupFlags.lookFor, prompt: "Which of it counts? With commas between, or all", otherwise: otherwise,
		take: func(text string) (err error) {
			s.a.lookFor, err = parseLookFor(text, known)
			return err
		}})
}

func (s *setup) askBroker() error {
	s.title(3, "which broker has the house?")
	otherwise := none
	if s.before != nil {
		otherwise = brokerOf(s.before.Home)
	}
	if b := s.a.broker; b.url != "" {
		otherwise = brokerOf(&agent.HomeFile{Broker: b.url, User: b.user})
	}
	if !s.given["broker"] {
		s.say("  Home Assistant's, or any other that speaks MQTT. Results go there; none: nowhere.")
		if otherwise == none && !s.yes && !s.dryRun {
			if found := s.findBroker(); found != "" {
				otherwise = found
			}
		}
	}
	return s.settle(question{flag: "broker", value: s.setupFlags.broker, prompt: "Broker, as in mqtt://192.168.1.10", otherwise: otherwise,
		take: s.takeBroker, try: s.tryBroker})
}

func (s *setup) takeBroker(text string) error {
	b, err := parseBroker(text)
	if err != nil {
		return err
	}
	if b.url != "" {
		if b, err = s.brokerLogin(b); err != nil {
			return err
		}
	}
	s.a.broker = b
	return nil
}

// brokerLogin asks whom the broker lets in.
func (s *setup) brokerLogin(b broker) (broker, error) {
	var err error
	if s.given["broker-password-file"] {
		if b.user == "" {
			return b, errors.New("a password needs a user: mqtt://user@…")
		}
		if b.password.text, err = readSecret(s.brokerPassword); err != nil {
			return b, fmt.Errorf("--broker-password-file: %w", err)
		}
		b.password.file = homeSecret
		return b, nil
	}
	if b.user == "" && !s.yes && !s.given["broker"] {
		if b.user, err = s.ask("User there; Enter if it asks for none", ""); err != nil {
			return b, err
		}
	}
	kept := ""
	if old := s.before; old != nil && old.Home != nil && old.Home.Broker == b.url && old.Home.User == b.user {
		kept = s.place.beside(old.Home.PasswordFile)
	}
	if b.user == "" {
		return b, nil
	}
	return b, s.password(&b.password, "Password of "+b.user, kept, homeSecret)
}

// readSecret reads a password of a file.
func readSecret(path string) (string, error) {
	b, err := readAtMost(path, 4096)
	if err != nil {
		return "", err
	}
	text := strings.TrimRight(string(b), "\r\n")
	if text == "" || strings.ContainsAny(text, "\r\n\x00") {
		return "", fmt.Errorf("%s has not a password in one line", path)
	}
	return text, nil
}

func (s *setup) askController() error {
	s.title(4, "which fleet?")
	otherwise := none
	if s.joined != nil && (s.before == nil || !s.before.Fleet.Disabled) {
		otherwise = "keep"
		s.say("  It joined %s as %s: keep. none: it has nothing to do with it any more.", s.joined.URL, s.joined.ID)
	} else if !s.given["join"] {
		s.say("  If somebody runs one, its operator gave you a token (covey-join-…).")
	}
	return s.settle(question{flag: "join", value: s.setupFlags.join, prompt: "Token, or none", otherwise: otherwise, take: func(text string) error {
		s.a.token, s.a.noFleet = nil, false
		switch {
		case text == "keep" && s.joined != nil:
			return nil
		case text == none:
			s.a.noFleet = s.joined != nil
			return nil
		case text == "-":
			var err error
			if text, err = s.wait(s.line); err != nil {
				return err
			}
		}
		t, err := wire.ParseJoinToken(text)
		if err == nil {
			s.a.token = &t
		}
		return err
	}})
}

func (s *setup) askPictures() error {
	s.title(5, "may pictures be shown?")
	if !s.given["pictures"] {
		s.say("  nowhere  no picture leaves the program that looks at it: numbers alone\n" +
			"  page     on this board's own page, to who has its password\n" +
			"  house    there, and to the house's broker: Home Assistant shows them")
	}
	otherwise := nowhere
	if b := s.before; b != nil && b.Privacy.Class != "" && b.Privacy.Class != "numbers" {
		otherwise = onPage
		if b.Privacy.Pictures != "" && b.Privacy.Pictures != "page" {
			otherwise = inHouse
		}
	}
	return s.settle(question{flag: "pictures", value: s.setupFlags.pictures, prompt: "Pictures", otherwise: otherwise, take: func(text string) error {
		if text != nowhere && text != onPage && text != inHouse {
			return fmt.Errorf("%.20q: answer with nowhere, page or house", text)
		}
		if text == inHouse && s.a.broker.url == "" {
			return errors.New("the house has no broker: answer with nowhere or page")
		}
		s.a.pictures = text
		return nil
	}})
}

// leastPassword is the shortest password for the page.
const leastPassword = 8

func (s *setup) askPassword() error {
	s.title(6, "a password for the page?")
	s.a.page, s.a.made = secret{}, false
	if s.a.pictures == nowhere {
		s.say("  There is no page: no pictures are shown.")
		return nil
	}
	if s.given["password-file"] {
		text, err := readSecret(s.pagePassword)
		if err == nil && len(text) < leastPassword {
			err = fmt.Errorf("%s: fewer than %d characters", s.pagePassword, leastPassword)
		}
		if err != nil {
			return fmt.Errorf("--password-file: %w", err)
		}
		s.a.page = secret{text, pageSecret}
		return nil
	}
	kept := ""
	if b := s.before; b != nil && b.Local != nil {
		kept = s.place.beside(b.Local.PasswordFile)
	}
	text, err := s.newPassword(kept)
	if err != nil {
		return err
	}
	switch {
	case text != "":
		s.a.page = secret{text, pageSecret}
	case kept != "":
		s.a.page = secret{"", kept}
	default:
		s.a.page, s.a.made = secret{madeUp(), pageSecret}, true
	}
	return nil
}

// newPassword asks for one twice; "" leaves it to setup.
func (s *setup) newPassword(kept string) (string, error) {
	if s.yes {
		return "", nil
	}
	what := "one is made up"
	if kept != "" {
		what = "the one that is there stays"
	}
	for {
		first, err := s.secret("Password, which is not shown (Enter: " + what + ")")
		if err != nil || first == "" {
			return "", err
		}
		if len(first) < leastPassword || strings.ContainsAny(first, "\r\n\x00") {
			s.say("  At least %d characters.", leastPassword)
			continue
		}
		second, err := s.secret("Once more")
		if err != nil || first == second {
			return second, err
		}
		s.say("  Those were two different ones.")
	}
}

// madeUp is a password of 80 random bits.
func madeUp() string {
	var b [10]byte
	rand.Read(b[:]) // never fails
	text := strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
	return text[:4] + "-" + text[4:8] + "-" + text[8:12] + "-" + text[12:]
}
