duo_test(golden_test
  SOURCES golden_test.cc
  ROOMS engine checkpoint heads)
