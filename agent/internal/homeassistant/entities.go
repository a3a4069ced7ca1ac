package homeassistant

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/covey-edge/covey/fleet/wire"
)

// A maker makes the components of one device.
type maker struct {
	device Device
	topics wire.Home
}

// An entity is a component and its key.
type entity struct {
	key       string
	component component
}

func (m *maker) dev() map[string]any {
	d := map[string]any{"ids": []string{"covey_" + string(m.device.Device)}, "name": text(m.device.Name), "mf": "Covey"}
	if d["name"] == "" {
		d["name"] = string(m.device.Device)
	}
	for key, s := range map[string]string{"mdl": text(m.device.Board), "sw": text(m.device.Agent), "cu": page(m.device.Page)} {
		if s != "" {
			d[key] = s
		}
	}
	return d
}

// entities are all there could be, the more important first: the board and its
// pipelines, then label by label through all of them.
func (m *maker) entities() []entity {
	list := m.board()
	longest := 0
	for i := range m.device.Pipelines {
		p := &m.device.Pipelines[i]
		list = append(list, m.pipeline(p)...)
		longest = max(longest, len(p.Labels))
	}
	for n := range min(longest, wire.MaxHomeLabels) {
		for i := range m.device.Pipelines {
			if p := &m.device.Pipelines[i]; n < len(p.Labels) {
				list = append(list, m.label(p, p.Labels[n].Label)...)
			}
		}
	}
	return list
}

// entity completes a component. Without pipe it is of the board.
func (m *maker) entity(pipe, kind, name string, c component) entity {
	key := kind
	if pipe != "" {
		key, name = pipe+"_"+kind, strings.ReplaceAll(pipe, "-", " ")+" "+name
	}
	c["uniq_id"] = "covey_" + string(m.device.Device) + "_" + key
	c["name"] = name
	if c["avty"] == nil {
		c["avty"] = m.available()
	}
	return entity{key, c}
}

// available is of the board, and of a pipeline for what it sees: both have to be.
func (m *maker) available(pipelines ...string) []map[string]string {
	list := []map[string]string{{"t": m.topics.Available()}}
	for _, p := range pipelines {
		list = append(list, map[string]string{"t": m.topics.PipelineAvailable(p)})
	}
	return list
}

// seen is a component for what a pipeline sees.
func (m *maker) seen(pipe string, c component) component {
	c["avty"], c["avty_mode"] = m.available(pipe), "all"
	return c
}

// diagnosis is a component that reads the diagnostics.
func (m *maker) diagnosis(template string, c component) component {
	c["stat_t"], c["val_tpl"], c["ent_cat"] = m.topics.Diagnostics(), "{{ "+template+" }}", "diagnostic"
	return c
}

func (m *maker) board() []entity {
	return []entity{
		m.entity("", "temperature", "temperature", m.diagnosis("value_json.temperature",
			component{"p": "sensor", "dev_cla": "temperature", "unit_of_meas": "°C", "stat_cla": "measurement", "sug_dsp_prc": 0})),
		m.entity("", "throttled", "throttled", m.diagnosis("'ON' if value_json.throttled else 'OFF'",
			component{"p": "binary_sensor", "dev_cla": "problem"})),
		m.entity("", "outbox", "outbox", m.diagnosis("value_json.outbox",
			component{"p": "sensor", "stat_cla": "measurement", "ic": "mdi:tray-full", "en": false})),
		m.entity("", "uptime", "uptime", m.diagnosis("value_json.uptime",
			component{"p": "sensor", "dev_cla": "duration", "unit_of_meas": "s", "en": false})),
	}
}

func (m *maker) pipeline(p *wire.HomePipeline) []entity {
	list := m.settings(p)
	list = append(list, m.entity(p.Name, "last", "last", m.seen(p.Name,
		component{"p": "sensor", "ic": "mdi:eye", "stat_t": m.topics.Last(p.Name), "val_tpl": "{{ value_json.label[:255] }}", "json_attr_t": m.topics.Last(p.Name)})))
	if p.Events {
		list = append(list, m.entity(p.Name, "event", "event", m.seen(p.Name,
			component{"p": "event", "evt_typ": []string{"start", "end"}, "stat_t": m.topics.Event(p.Name), "val_tpl": eventTemplate})))
	}
	if p.Image {
		list = append(list, m.entity(p.Name, "image", "picture", m.seen(p.Name,
			component{"p": "image", "img_t": m.topics.Image(p.Name), "cont_type": "image/jpeg"})))
	}
	reads := func(key string) string {
		return fmt.Sprintf("(value_json.pipelines['%s']|default({})).%s|default(none)", p.Name, key)
	}
	return append(list,
		m.entity(p.Name, "fps", "frame rate", m.diagnosis(reads("fps"),
			component{"p": "sensor", "unit_of_meas": "fps", "stat_cla": "measurement", "sug_dsp_prc": 1})),
		m.entity(p.Name, "latency", "latency", m.diagnosis(reads("latency"),
			component{"p": "sensor", "dev_cla": "duration", "unit_of_meas": "ms", "stat_cla": "measurement", "sug_dsp_prc": 0})),
		m.entity(p.Name, "accelerator", "accelerator", m.diagnosis(reads("accelerator"),
			component{"p": "sensor", "ic": "mdi:chip"})))
}

// eventTemplate makes of an event what an event entity takes, and nothing of one that
// comes late, of an update, and of what was lost.
const eventTemplate = `{% if value_json.type|default('') in ['start','end'] and not value_json.late|default(false) %}` +
	`{{ {'event_type': value_json.type, 'id': value_json.id, 'label': value_json.label, 'zone': value_json.zone|default('all'), 'score': value_json.score|default(0)}|to_json }}{% endif %}`

// settings are the entities that write. They are there while the board is: what is off
// has to be switched on again.
func (m *maker) settings(p *wire.HomePipeline) (list []entity) {
	install := component{"p": "update", "stat_t": m.topics.Model(p.Name), "ent_cat": "config"}
	for _, s := range p.Settings {
		set := m.topics.Set(p.Name, s.Name)
		switch s.Name {
		case wire.SettingInstall:
			install["cmd_t"], install["pl_inst"] = set, wire.SettingInstall
		case wire.SettingEnabled:
			list = append(list, m.entity(p.Name, "enabled", "enabled", component{"p": "switch", "stat_t": m.topics.Setting(p.Name, s.Name), "cmd_t": set}))
		case wire.SettingThreshold:
			list = append(list, m.entity(p.Name, "threshold", "threshold", component{"p": "number", "ent_cat": "config",
				"stat_t": m.topics.Setting(p.Name, s.Name), "cmd_t": set, "min": 0.01, "max": 1, "step": 0.01}))
		case wire.SettingRestart:
			list = append(list, m.entity(p.Name, "restart", "restart", component{"p": "button", "ent_cat": "config", "dev_cla": "restart", "cmd_t": set, "pl_prs": s.Name}))
		case wire.SettingSnapshot:
			list = append(list, m.entity(p.Name, "snapshot", "snapshot", component{"p": "button", "ic": "mdi:camera", "cmd_t": set, "pl_prs": s.Name}))
		}
	}
	return append(list, m.entity(p.Name, "model", "model", install))
}

// label is what one label of a pipeline has: whether there is any, by zone, and how many.
func (m *maker) label(p *wire.HomePipeline, label string) (list []entity) {
	zones := p.Zones[:min(len(p.Zones), wire.MaxHomeZones)]
	level := wire.LabelLevel(label)
	some, many := zones, append([]string{wire.ZoneAll}, zones...)
	if len(zones) == 0 {
		some = many
	}
	name := func(zone string) string {
		if zone == wire.ZoneAll {
			return cmp.Or(text(label), level)
		}
		return strings.ReplaceAll(zone, "-", " ") + " " + cmp.Or(text(label), level)
	}
	for _, zone := range some {
		c := component{"p": "binary_sensor", "stat_t": m.topics.Count(p.Name, zone, label), "val_tpl": "{{ 'ON' if value|int(0) > 0 else 'OFF' }}"}
		if class := deviceClass(p.Task, level); class != "" {
			c["dev_cla"] = class
		}
		list = append(list, m.entity(p.Name, "is_"+zone+"_"+level, name(zone), m.seen(p.Name, c)))
	}
	for _, zone := range many {
		list = append(list, m.entity(p.Name, "count_"+zone+"_"+level, name(zone)+" count", m.seen(p.Name,
			component{"p": "sensor", "stat_cla": "measurement", "stat_t": m.topics.Count(p.Name, zone, label)})))
	}
	return list
}

// deviceClass is what Home Assistant shows of a label that is there: "Detected" instead
// of "On".
func deviceClass(task, level string) string {
	switch {
	case level == "motion":
		return "motion"
	case task == "audio":
		return "sound"
	case task == "series" || task == "raw":
		return ""
	}
	return "occupancy"
}
