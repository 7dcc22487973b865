/* tests/format.py must refuse this file: its braces and spaces. */
int canary( int number ) {
  return number;}
