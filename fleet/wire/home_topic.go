package wire

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Home is the root of one device's topics in the home tree, for people and Home
// Assistant.
type Home struct {
	Root string // "covey" unless configured
	ID   DeviceID
}

// Base is what all of a device's topics begin with.
func (h Home) Base() string { return h.Root + "/home/" + string(h.ID) + "/" }

// What the device writes.
func (h Home) Available() string                 { return h.Base() + "available" }
func (h Home) Capabilities() string              { return h.Base() + "capabilities" }
func (h Home) Diagnostics() string               { return h.Base() + "diagnostics" }
func (h Home) PipelineAvailable(p string) string { return h.Base() + p + "/available" }
func (h Home) Result(p string) string            { return h.Base() + p + "/result" }
func (h Home) Event(p string) string             { return h.Base() + p + "/event" }
func (h Home) Last(p string) string              { return h.Base() + p + "/last" }
func (h Home) Image(p string) string             { return h.Base() + p + "/image" }
func (h Home) Model(p string) string             { return h.Base() + p + "/model" }

// Count is how many of a label there are in a zone; ZoneAll is the whole picture.
func (h Home) Count(p, zone, label string) string {
	return h.Base() + p + "/" + zone + "/" + LabelLevel(label)
}

// Setting is where a setting stands, SetError why it could not be set as asked.
func (h Home) Setting(p, setting string) string  { return h.Base() + p + "/" + setting }
func (h Home) SetError(p, setting string) string { return h.Base() + p + "/" + setting + "/error" }

// What the house writes: Set is where it sets a setting, SetAll the filter of all of them.
func (h Home) Set(p, setting string) string { return h.Base() + p + "/" + setting + "/set" }
func (h Home) SetAll() string               { return h.Base() + "+/+/set" }

// All is the filter of all of a device's topics.
func (h Home) All() string { return h.Base() + "#" }

// ParseSet splits a topic that Set has made into its pipeline and setting.
func (h Home) ParseSet(topic string) (pipeline, setting string, ok bool) {
	rest, ok := strings.CutPrefix(topic, h.Base())
	if !ok {
		return "", "", false
	}
	rest, ok = strings.CutSuffix(rest, "/set")
	pipeline, setting, two := strings.Cut(rest, "/")
	return pipeline, setting, ok && two && ValidID(pipeline) && ValidID(setting)
}

// Discovery is where Home Assistant reads of a device, HomeStatus where it says that it
// has started. prefix is "homeassistant" unless a house has changed it.
func Discovery(prefix string, id DeviceID) string {
	return prefix + "/device/" + string(id) + "/config"
}
func HomeStatus(prefix string) string { return prefix + "/status" }

// Settings of a pipeline that a house may write.
const (
	SettingEnabled   = "enabled"   // ON, OFF
	SettingThreshold = "threshold" // of a score, in (0,1]
	SettingInstall   = "install"   // "install", "install <version>"; its state is Model
	SettingRestart   = "restart"   // "restart"; has no state, as snapshot
	SettingSnapshot  = "snapshot"  // "snapshot"
)

// ZoneAll is the zone that is the whole picture.
const ZoneAll = "all"

// MaxZone is the longest name of a zone, bytes.
const MaxZone = 32

// ValidZone says whether s may name a zone: an id that is not taken by a topic of the
// same level.
func ValidZone(s string) bool {
	switch s {
	case ZoneAll, SettingEnabled, SettingThreshold, SettingInstall, SettingRestart, SettingSnapshot:
		return false
	}
	return ValidID(s)
}

// maxLabelLevel is the longest level that a label gets, bytes.
const maxLabelLevel = 48

// LabelLevel is the level of a topic that stands for a label: its letters and digits in
// small letters, with "-" between words. Labels that differ in no more than that are
// one. Where more is lost, the level ends in six digits of the label's hash.
func LabelLevel(label string) string {
	plain := true
	words := strings.FieldsFunc(label, func(r rune) bool {
		letter := r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r))
		plain = plain && (letter || r == ' ' || r == '_' || r == '-')
		return !letter
	})
	s := strings.ToLower(strings.Join(words, "-"))
	if plain && s != "" && len(s) <= maxLabelLevel {
		return s
	}
	const digits = 6
	if limit := maxLabelLevel - digits - 1; len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	sum := sha256.Sum256([]byte(label))
	return strings.TrimPrefix(strings.TrimSuffix(s, "-")+"-"+hex.EncodeToString(sum[:digits/2]), "-")
}
