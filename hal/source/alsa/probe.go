package alsa

import (
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"github.com/covey-edge/covey/hal"
)

var (
	cardLine = regexp.MustCompile(`(?m)^ *(\d+) \[([^\]]*)\]: (.*)$`)
	pcmLine  = regexp.MustCompile(`(?m)^(\d+)-(\d+): (.*)$`)
)

// Probe lists what can record under a root such as os.DirFS("/"), by the names of
// the cards, which stay the same in another socket.
func Probe(root fs.FS) []hal.Input {
	cards, err := fs.ReadFile(root, "proc/asound/cards")
	if err != nil {
		return nil
	}
	pcms, err := fs.ReadFile(root, "proc/asound/pcm")
	if err != nil {
		return nil
	}
	type card struct{ id, name string }
	known := map[string]card{}
	for _, m := range cardLine.FindAllStringSubmatch(string(cards), -1) {
		_, name, _ := strings.Cut(m[3], " - ")
		known[m[1]] = card{strings.TrimSpace(m[2]), name}
	}
	var found []hal.Input
	for _, m := range pcmLine.FindAllStringSubmatch(string(pcms), -1) {
		fields := strings.Split(m[3], " : ")
		number, device := strings.TrimLeft(m[1], "0"), strings.TrimLeft(m[2], "0")
		if number == "" {
			number = "0"
		}
		if device == "" {
			device = "0"
		}
		c, ok := known[number]
		if !ok || !strings.Contains(m[3], "capture") {
			continue
		}
		found = append(found, hal.Input{
			Source: "alsa", ID: fmt.Sprintf("hw:CARD=%s,DEV=%s", c.id, device), Name: c.name, Detail: strings.TrimSpace(fields[0]),
		})
	}
	return found
}
