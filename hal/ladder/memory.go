package ladder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/hal"
)

// Format is the number of the format of what is remembered. Another one is
// forgotten: everything in it can be measured again.
const Format = 1

// Limits of what is remembered.
const (
	MaxFile    = 1 << 20 // bytes
	maxRecords = 64      // models; the one that was chosen for longest ago goes first
	maxLost    = 32      // losers of one model
	maxChoices = 16
	maxDevices = 32
	maxText    = 300 // bytes
)

// A Store keeps a file's worth of bytes. Save has to survive a power cut: either
// the old bytes are there afterwards, or the new ones.
type Store interface {
	// Load returns what was saved last; nothing and no error when nothing was.
	Load() ([]byte, error)
	Save([]byte) error
}

// A Record is what was found out about one model.
type Record struct {
	Model     string        `json:"model"`     // SHA-256 of its file
	Name      string        `json:"name"`      // for people
	Engine    string        `json:"engine"`    //
	Asked     string        `json:"asked"`     // order and threads, as the caller wanted them
	Board     string        `json:"board"`     //
	CPU       string        `json:"cpu"`       //
	Devices   []hal.Device  `json:"devices"`   // that were here, with the versions of runtimes and drivers
	Choices   []Choice      `json:"choices"`   // that agree, fastest first, one for each accelerator
	Lost      []hal.Attempt `json:"lost"`      //
	Reference time.Duration `json:"reference"` // p50 on the plain CPU; 0 when it cannot run there
	At        time.Time     `json:"at"`
}

type file struct {
	Format int      `json:"format"`
	Models []Record `json:"models"` // last chosen first
}

// A Memory remembers choices. It may be used by many engines and goroutines.
type Memory struct {
	store Store
	log   zerolog.Logger

	mu     sync.Mutex // guards records, and that saves come one after the other
	models []Record
}

// Remember reads what a store holds. What cannot be read is forgotten, with a line
// in the log. A nil store forgets everything with the process.
func Remember(store Store, log zerolog.Logger) *Memory {
	m := &Memory{store: store, log: log}
	if store == nil {
		return m
	}
	b, err := store.Load()
	if err == nil && len(b) > 0 {
		m.models, err = Parse(b)
	}
	if err != nil {
		log.Warn().Err(err).Msg("what models run best on is forgotten and will be measured again")
	}
	return m
}

// Parse reads what a Memory saved, strictly. The error is E_STATE_CORRUPT.
func Parse(b []byte) ([]Record, error) {
	if len(b) > MaxFile {
		return nil, corrupt("it has %d bytes, the limit is %d", len(b), MaxFile)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var f file
	if err := d.Decode(&f); err != nil {
		return nil, corrupt("%v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, corrupt("something follows the end")
	}
	if f.Format != Format {
		return nil, corrupt("it has format %d, this program reads %d", f.Format, Format)
	}
	if len(f.Models) > maxRecords {
		return nil, corrupt("%d models, the limit is %d", len(f.Models), maxRecords)
	}
	for i := range f.Models {
		if why := f.Models[i].check(); why != "" {
			return nil, corrupt("model %d: %s", i, why)
		}
	}
	return f.Models, nil
}

func corrupt(format string, args ...any) error {
	return &hal.Error{Code: hal.CodeStateCorrupt, Text: "the file of choices is broken: " + fmt.Sprintf(format, args...)}
}

func (r *Record) check() string {
	switch {
	case !validSHA(r.Model):
		return "no SHA-256"
	case len(r.Choices) == 0 || len(r.Choices) > maxChoices || len(r.Lost) > maxLost || len(r.Devices) > maxDevices:
		return "too many or too few entries"
	case r.Reference < 0:
		return "negative time"
	}
	texts := []string{r.Name, r.Engine, r.Asked, r.Board, r.CPU}
	for _, c := range r.Choices {
		if c.Accelerator == "" || c.Accelerator == hal.Auto || c.Threads < 0 || c.Took < 0 {
			return "a choice that is none"
		}
		texts = append(texts, string(c.Accelerator))
		texts = append(texts, settingTexts(c.Settings)...)
	}
	for _, l := range r.Lost {
		if l.Threads < 0 || l.Took < 0 {
			return "a loser that is none"
		}
		texts = append(texts, string(l.Accelerator), l.Reason)
		texts = append(texts, settingTexts(l.Settings)...)
	}
	for _, d := range r.Devices {
		texts = append(texts, string(d.Accelerator), d.ID, d.Name, d.Runtime, d.Driver)
	}
	for _, t := range texts {
		if len(t) > maxText || bytes.ContainsFunc([]byte(t), func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return "a text that is too long or not one line"
		}
	}
	return ""
}

func settingTexts(m map[string]string) []string {
	var list []string
	for k, v := range m {
		list = append(list, k, v)
	}
	return list
}

func validSHA(s string) bool {
	if len(s) != 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// find is what is remembered about a model, whether or not it still holds.
func (m *Memory) find(engine, model, asked string) (Record, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.models {
		if r.Engine == engine && r.Model == model && r.Asked == asked {
			return r, true
		}
	}
	return Record{}, false
}

// put remembers a choice in the place of an older one.
func (m *Memory) put(r Record) {
	r.Lost = r.Lost[:min(len(r.Lost), maxLost)]
	r.Choices = r.Choices[:min(len(r.Choices), maxChoices)]
	r.Devices = r.Devices[:min(len(r.Devices), maxDevices)]
	if why := r.check(); why != "" {
		m.log.Warn().Str("model", r.Name).Str("why", why).Msg("choice is not remembered")
		return
	}
	m.change(r.Engine, r.Model, r.Asked, []Record{r})
}

// forget drops what is remembered about a model.
func (m *Memory) forget(engine, model, asked string) { m.change(engine, model, asked, nil) }

func (m *Memory) change(engine, model, asked string, first []Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rest := slices.DeleteFunc(slices.Clone(m.models), func(r Record) bool {
		return r.Engine == engine && r.Model == model && r.Asked == asked
	})
	if len(rest) == len(m.models) && first == nil {
		return
	}
	m.models = append(first, rest...)
	m.models = m.models[:min(len(m.models), maxRecords)]
	if m.store == nil {
		return
	}
	b, err := json.Marshal(file{Format: Format, Models: m.models})
	if err == nil && len(b) > MaxFile {
		m.models = m.models[:len(m.models)/2]
		b, err = json.Marshal(file{Format: Format, Models: m.models})
	}
	if err == nil {
		err = m.store.Save(b)
	}
	if err != nil {
		m.log.Warn().Err(err).Msg("choices are not saved; they are measured again after a restart")
	}
}

// Explain says, from the bytes of a Store, what every remembered model runs on,
// and why each other candidate lost: one line each.
func Explain(b []byte) ([]hal.Diagnosis, error) {
	if len(b) == 0 {
		return nil, nil
	}
	records, err := Parse(b)
	if err != nil {
		return nil, err
	}
	var list []hal.Diagnosis
	for _, r := range records {
		subject := fmt.Sprintf("model %s (%s)", r.Name, r.Model[:12])
		for i, c := range r.Choices {
			line := "runs on " + c.String()
			if i > 0 {
				line = "falls back to " + c.String()
			}
			list = append(list, hal.Diagnosis{Subject: subject, OK: true, Detail: line + took(c.Took)})
		}
		for _, l := range r.Lost {
			c := Choice{Accelerator: l.Accelerator, Threads: l.Threads, Settings: l.Settings}
			list = append(list, hal.Diagnosis{Subject: subject, OK: true, Detail: "not " + c.String() + took(l.Took) + ": " + l.Reason})
		}
	}
	return list, nil
}

func took(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return " (" + millis(d) + ")"
}

// millis is a duration as people compare them: "12.3 ms".
func millis(d time.Duration) string {
	return fmt.Sprintf("%.3g ms", float64(d)/float64(time.Millisecond))
}
