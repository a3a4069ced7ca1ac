package wire

import "time"

// HomeModel is <pipeline>/model on the home tree: the document of an update entity of
// Home Assistant. Every key is always there: a key that is missing would leave there
// what was said before. Installed and Latest are the same where there is nothing to
// install.
type HomeModel struct {
	Installed  string `json:"installed_version"` // "none" where nothing is
	Latest     string `json:"latest_version"`
	Title      string `json:"title"` // the release's name
	InProgress bool   `json:"in_progress"`
	Percent    *int   `json:"update_percentage"` // of the download; nil: not downloading
	Summary    string `json:"release_summary"`   // one line
}

// MaxHomeModel is the longest HomeModel, bytes.
const MaxHomeModel = 4 << 10

// Validate says what is wrong with the message, nil when nothing is.
func (m *HomeModel) Validate() error {
	var c checker
	c.someText("installed_version", m.Installed, maxText)
	c.someText("latest_version", m.Latest, maxText)
	c.text("title", m.Title, maxText)
	if m.Percent != nil {
		c.whole("update_percentage", *m.Percent, 0, 100)
	}
	c.text("release_summary", m.Summary, maxFault)
	return c.err
}

// HomeCapabilities is capabilities on the home tree: what a consumer can build on.
type HomeCapabilities struct {
	V         int            `json:"v"`
	Device    DeviceID       `json:"device"`
	Name      string         `json:"name"`  // for people
	Board     string         `json:"board"` // its hardware
	Agent     string         `json:"agent"` // version
	Pipelines []HomePipeline `json:"pipelines"`
}

// HomePipeline is one pipeline of HomeCapabilities. Its counts are at
// <pipeline>/<zone>/<topic of the label>, for all of Zones and for ZoneAll.
type HomePipeline struct {
	Name     string        `json:"name"`
	Task     string        `json:"task"`
	Unit     string        `json:"unit,omitempty"` // of what a series measures
	Zones    []string      `json:"zones"`
	Labels   []HomeLabel   `json:"labels"` // that are counted
	Events   bool          `json:"events"` // it says when something begins and ends
	Image    bool          `json:"image"`  // it may show pictures
	Settings []HomeSetting `json:"settings"`
}

// A HomeLabel is a label and the level of topics that stands for it.
type HomeLabel struct {
	Label string `json:"label"`
	Topic string `json:"topic"`
}

// A HomeSetting is a setting that a house may write.
type HomeSetting struct {
	Name string   `json:"name"`
	Type string   `json:"type"`          // switch: ON, OFF; number: Min to Max; button: its own name
	Min  *float64 `json:"min,omitempty"` // of a number, as the next two
	Max  *float64 `json:"max,omitempty"`
	Step *float64 `json:"step,omitempty"`
}

// Types of a HomeSetting.
const (
	SettingSwitch = "switch"
	SettingNumber = "number"
	SettingButton = "button"
)

// Limits of what a board shows at home.
const (
	MaxHomeCapabilities = 256 << 10 // bytes
	MaxHomeLabels       = 32        // of a pipeline that are counted
	MaxHomeZones        = 16        // of a pipeline
	MaxHomeImage        = 240 << 10 // bytes
)

// Validate says what is wrong with the message, nil when nothing is.
func (m *HomeCapabilities) Validate() error {
	var c checker
	c.version(m.V)
	c.id("device", string(m.Device))
	c.someText("name", m.Name, maxText)
	c.text("board", m.Board, maxText)
	c.text("agent", m.Agent, 64)
	c.that(m.Pipelines != nil, "pipelines: missing")
	c.count("pipelines", len(m.Pipelines), MaxPipelines)
	for i := range m.Pipelines {
		c.homePipeline(&m.Pipelines[i])
	}
	return c.err
}

func (c *checker) homePipeline(p *HomePipeline) {
	c.id("pipelines.name", p.Name)
	key := "pipelines." + clip(p.Name)
	c.text(key+".task", p.Task, 64)
	c.text(key+".unit", p.Unit, 64)
	c.that(p.Zones != nil && p.Labels != nil && p.Settings != nil, "%s: zones, labels or settings are missing", key)
	c.count(key+".zones", len(p.Zones), MaxHomeZones)
	for _, z := range p.Zones {
		c.that(ValidZone(z), "%s.zones: %q cannot be a zone", key, clip(z))
	}
	c.count(key+".labels", len(p.Labels), MaxHomeLabels)
	for _, l := range p.Labels {
		c.short(key+".labels.label", l.Label, 1024)
		c.that(l.Topic == LabelLevel(l.Label), "%s.labels: %q is not the topic of %q", key, clip(l.Topic), clip(l.Label))
	}
	c.count(key+".settings", len(p.Settings), 16)
	for _, s := range p.Settings {
		c.id(key+".settings.name", s.Name)
		c.that(s.Type == SettingSwitch || s.Type == SettingNumber || s.Type == SettingButton, "%s.settings.%s: no type %q", key, clip(s.Name), clip(s.Type))
	}
}

// HomeLast is <pipeline>/last on the home tree: what was last recognised for sure.
type HomeLast struct {
	V     int       `json:"v"`
	Label string    `json:"label"`
	Score float32   `json:"score"`
	Zone  string    `json:"zone"` // ZoneAll where it was in none
	TS    time.Time `json:"ts"`
}

// MaxHomeLast is the longest HomeLast, bytes.
const MaxHomeLast = 8 << 10

// Validate says what is wrong with the message, nil when nothing is.
func (m *HomeLast) Validate() error {
	var c checker
	c.version(m.V)
	c.short("label", m.Label, 1024)
	c.that(m.Label != "", "label: missing")
	c.within("score", float64(m.Score), -1e9, 1e9)
	c.that(m.Zone == ZoneAll || ValidZone(m.Zone), "zone: %q cannot be a zone", clip(m.Zone))
	return c.err
}

// HomeDiagnostics is diagnostics on the home tree: how the board does.
type HomeDiagnostics struct {
	V           int                              `json:"v"`
	Uptime      int64                            `json:"uptime"`      // of the agent, s
	Temperature *float64                         `json:"temperature"` // °C; null: not known
	Throttled   bool                             `json:"throttled"`   // it is slowed down for heat or want of power
	CPU         float64                          `json:"cpu"`         // percent of all cores
	Memory      float64                          `json:"memory"`      // percent in use
	Disk        float64                          `json:"disk"`        // percent in use
	Outbox      int64                            `json:"outbox"`      // records that wait
	Lost        uint64                           `json:"lost"`        // records that will never come
	Pipelines   map[string]HomePipelineDiagnosis `json:"pipelines"`
}

// HomePipelineDiagnosis is one pipeline of HomeDiagnostics.
type HomePipelineDiagnosis struct {
	FPS         float64 `json:"fps"`
	Latency     float64 `json:"latency"` // ms from captured to published, the median
	Accelerator string  `json:"accelerator"`
	Degraded    string  `json:"degraded"` // a code; "": it is not
}

// MaxHomeDiagnostics is the longest HomeDiagnostics, bytes.
const MaxHomeDiagnostics = 64 << 10

// Validate says what is wrong with the message, nil when nothing is.
func (m *HomeDiagnostics) Validate() error {
	var c checker
	c.version(m.V)
	c.that(m.Uptime >= 0, "uptime: %d", m.Uptime)
	if m.Temperature != nil {
		c.within("temperature", *m.Temperature, -60, 200)
	}
	c.within("cpu", m.CPU, 0, 100)
	c.within("memory", m.Memory, 0, 100)
	c.within("disk", m.Disk, 0, 100)
	c.that(m.Outbox >= 0, "outbox: %d", m.Outbox)
	c.that(m.Pipelines != nil, "pipelines: missing")
	c.count("pipelines", len(m.Pipelines), MaxPipelines)
	for _, name := range keys(m.Pipelines) {
		p, key := m.Pipelines[name], "pipelines."+clip(name)
		c.id("pipelines", name)
		c.within(key+".fps", p.FPS, 0, 1e6)
		c.within(key+".latency", p.Latency, 0, 1e12)
		c.text(key+".accelerator", p.Accelerator, maxText)
		c.text(key+".degraded", p.Degraded, 64)
	}
	return c.err
}
