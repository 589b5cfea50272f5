@echo off
rem Runs start.sh, which Python can read, through the py launcher or else through python.
setlocal
rem Being found is not enough: Windows ships a "python" that only opens its shop, and py may know no Python 3.
py -3 -c "pass" >nul 2>nul
if %errorlevel%==0 goto launcher
python -c "pass" >nul 2>nul
if %errorlevel%==0 goto plain
echo start.bat: mayfly needs Python 3.10 or newer, and no Python was found. Install it and run start.bat again. 1>&2
exit /b 1

:launcher
py -3 "%~dp0start.sh" %*
exit /b %errorlevel%

:plain
python "%~dp0start.sh" %*
exit /b %errorlevel%
