package fleet

import (
	"io"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
)

// hosts are the names and addresses of this machine, for its certificate and for
// join tokens: addresses first, since not every network knows its names.
func hosts() (list []string) {
	addrs, err := net.InterfaceAddrs()
	if err == nil { // else there is localhost
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
				list = append(list, n.IP.String())
			}
		}
	}
	if name, err := os.Hostname(); err == nil && validHost(name) {
		list = append(list, name, name+".local")
	}
	return append(list, "localhost")
}

// validHost says whether h can stand in a certificate and in a URL. What is
// neither would be found out at the first handshake, by the other side.
func validHost(h string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"
	return net.ParseIP(h) != nil || h != "" && len(h) <= 253 && strings.Trim(h, letters) == ""
}

// at is host with the port of an address, or the address itself where it is
// bound to one.
func at(host string, addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return addr.String()
	}
	if !tcp.IP.IsUnspecified() {
		host = tcp.IP.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(tcp.Port))
}

// quiet keeps what net/http says of every port scanner out of the log.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
