package uplink

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// maxSet is the longest word from home, bytes.
const maxSet = 128

// parseSet reads what somebody at home has written to a setting. The value is the
// version of an install ("" is whatever waits), ON or OFF, a threshold as Go writes it;
// "" of a button.
func parseSet(setting string, payload []byte) (value string, err error) {
	if len(payload) > maxSet {
		return "", badSetting("at most %d bytes", maxSet)
	}
	for _, c := range payload {
		if c < ' ' || c > '~' {
			return "", badSetting("plain text")
		}
	}
	switch s := string(payload); setting {
	case wire.SettingInstall:
		return parseInstall(s)
	case wire.SettingEnabled:
		if s != "ON" && s != "OFF" {
			return "", badSetting(`"ON" or "OFF"`)
		}
		return s, nil
	case wire.SettingThreshold:
		return parseThreshold(s)
	default:
		if s != setting {
			return "", badSetting("%q", setting)
		}
		return "", nil
	}
}

func badSetting(format string, args ...any) error {
	return &hal.Error{Code: hal.CodeConfig, Text: "want " + fmt.Sprintf(format, args...)}
}

// parseInstall reads "install" or "install <version>".
func parseInstall(s string) (version string, err error) {
	word, version, more := strings.Cut(s, " ")
	if word != "install" || more && strings.TrimSpace(version) != version || more && version == "" {
		return "", &hal.Error{Code: hal.CodeConsent, Text: `want "install" or "install <version>"`}
	}
	return version, nil
}

// parseThreshold reads a number in (0,1], in digits with a point.
func parseThreshold(s string) (value string, err error) {
	f, err := strconv.ParseFloat(s, 32)
	if err != nil || strings.Trim(s, "0123456789.") != "" || float32(f) <= 0 || f > 1 {
		return "", badSetting("a number above 0 and up to 1, as in 0.5")
	}
	return strconv.FormatFloat(f, 'f', -1, 32), nil
}
