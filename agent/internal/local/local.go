// Package local is the board's own web server: its page, the API that the page is
// made with, and what a monitor asks for. It works without the internet, shows and
// sets nothing but through a Board, and opens no door to the network unless told to.
package local
